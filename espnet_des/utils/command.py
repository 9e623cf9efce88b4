"""What the commands in ``espnet_des/bin`` share: one call, errors without a traceback."""

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator

from espnet_des.utils.processes import end_with_parent, stopped_by_signals
from espnet_des.utils.threads import wait_asleep


@contextlib.contextmanager
def as_command() -> Iterator[None]:
    """What a command works in; torch must not be imported yet.

    Its threads share the processors with others, it ends with what started it, and takes with
    it what it has started.
    """
    wait_asleep()
    end_with_parent()
    with stopped_by_signals():
        yield


def call(target: str, arguments: dict) -> int:
    """Call ``module:function``; returns the exit code.

    The module is imported only now, so that --help does not wait for ESPnet.

    Args:
        target: such as ``espnet_des.measure.report:report``.
        arguments: its keyword arguments.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    module, function = target.split(":")
    try:
        with as_command():
            getattr(importlib.import_module(module), function)(**arguments)
    except (RuntimeError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
