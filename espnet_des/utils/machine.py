"""What a measurement was made on."""

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
