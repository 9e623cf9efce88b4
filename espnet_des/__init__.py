"""One training, every encoder size: a layer-wise supernet for ESPnet.

``import espnet_des`` makes ``encoder: des_conformer`` (and ``des_e_branchformer``, ...)
and ``model: des`` known to ESPnet, before or after ``espnet2.tasks.asr`` is imported. It
imports neither ESPnet nor torch; ``espnet_des.Speech2Text`` does, when it is first used.
"""

from typing import TYPE_CHECKING

from espnet_des import registry

if TYPE_CHECKING:
    from espnet_des.inference.speech2text import Speech2Text

__version__ = "0.1.0"
__all__ = ["Speech2Text"]

registry.install()


def __getattr__(name: str):
    if name == "Speech2Text":
        from espnet_des.inference.speech2text import Speech2Text

        return Speech2Text
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
