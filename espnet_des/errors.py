"""Errors that a user's setting or file can cause, and what their messages share."""

import errno
import re
from typing import Any

# Where gradients or weights are not finite. (A resume takes the checkpoint's learning rate.)
HOW_TO_GO_ON = (
    "Look for damaged audio, and start again: it goes on from the last checkpoint; or begin "
    "anew in another output_dir with a lower learning rate"
)

# Of the disk, the network or the system.
NOT_NOW = {
    errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
    errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EINTR,
}  # fmt: skip
# In torch's words, whose errors are RuntimeError mostly.
OF_TORCH = re.compile(
    r"allocate memory|out of memory|not enough memory|CUDA|cuDNN|NVIDIA|HIP "
)


class ConfigError(ValueError):
    """A setting that cannot work: says which key, its value and what would."""


class OtherTrainingError(RuntimeError):
    """A checkpoint that is not of the training, or the model, that is to load it."""


def need(ok: bool, key: str, value: Any, right: str) -> None:
    """Refuse a setting.

    Args:
        right: what would be, after "must be".

    Raises:
        ConfigError: where it is not ``ok``.
    """
    if not ok:
        raise ConfigError(f"{key}: {value!r} must be {right}")


def text_hint(value: Any) -> str:
    """Why a number may have become text, to be added to what would be right."""
    return " (YAML takes 1e-3 for text: write 1.0e-3)" if isinstance(value, str) else ""


def is_number(value: Any) -> bool:
    """True of integers and floats, NaN and infinity among them; not of true and false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_of_machine(error: BaseException) -> bool:
    """True where an error of reading tells of memory, disk or GPU, and nothing of the file."""
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) in NOT_NOW
        or (isinstance(error, RuntimeError) and bool(OF_TORCH.search(str(error))))
    )
