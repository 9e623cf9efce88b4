"""How much the process grows in a step, as the system sees it (Linux)."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def peak_growth(step: Callable[[], object]) -> int | None:
    """Bytes by which the resident memory grows at the worst moment of a step.

    Beside what autograd saves these are gradients, and what operations need while they
    run. None where the system does not tell.
    """
    try:
        # What was freed earlier is given back first, or the step would reuse it unseen.
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")  # forget the highest mark
        before = _status("VmRSS")
    except (OSError, AttributeError):
        return None
    step()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{_PROCESS}/status has no {key}")
    return 1024 * int(found[1])
