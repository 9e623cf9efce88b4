"""How much the process grows in a step, as the system sees it (Linux)."""

import ctypes
from collections.abc import Callable

from espnet_des.utils.machine import memory, reset_peak_memory


def peak_growth(step: Callable[[], object]) -> int | None:
    """Bytes by which the resident memory grows at the worst moment of a step.

    Beside what autograd saves these are gradients, and what operations need while they
    run. None where the system does not tell.
    """
    try:
        # What was freed earlier is given back first, or the step would reuse it unseen.
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return None
    if not reset_peak_memory():
        return None
    before = memory("VmRSS")
    step()
    after = memory("VmHWM")
    return None if before is None or after is None else after - before
