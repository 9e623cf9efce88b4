"""What a measurement was made on, and what this process uses of it."""

import os
import platform
import re
from pathlib import Path


def processor() -> str:
    """The processor, as the system calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def describe() -> str:
    """Processor, Python and torch."""
    import torch

    return f"{processor()}, Python {platform.python_version()}, torch {torch.__version__}"


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def memory(field: str) -> int | None:
    """Bytes of this process's resident memory: VmRSS now, VmHWM at most.

    None where the system does not tell. Not getrusage's ru_maxrss: over fork and exec it keeps
    the parent's.
    """
    try:
        found = re.search(
            rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE
        )
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def reset_peak_memory() -> bool:
    """Let VmHWM start from now; False where that is not allowed, and what was before counts."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
