"""Put the plugin's classes in place as soon as ESPnet's ASR task is there.

Importing ESPnet takes seconds, and most commands of a recipe never need it. So
nothing is imported here: a hook waits for ``espnet2.tasks.asr``.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys

TARGET = "espnet2.tasks.asr"
# By its name: it stands above this module, and imports ESPnet.
PLUGIN = "espnet_des.task"


def install() -> None:
    """Register now if ESPnet's ASR task is imported, else when it will be."""
    # The hook first: an import that another thread begins now must not miss it.
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if TARGET in sys.modules:
        # Waits where another thread is in the middle of importing it.
        __import__(TARGET)
        if hasattr(sys.modules[TARGET], "ASRTask"):
            importlib.import_module(PLUGIN)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds ESPnet's ASR task where Python does, and registers after its import."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != TARGET:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            # It registers itself at its end: whoever imports it first (a spawned
            # worker does, to unpickle its class), it is complete by then.
            importlib.import_module(PLUGIN)

        # Of this one loader: a class of its own would have to pass on all else.
        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
