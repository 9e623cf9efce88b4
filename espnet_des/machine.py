"""What a measurement was made on."""

import platform
import re
from pathlib import Path


def describe() -> str:
    """Processor, Python and torch."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        name = found[1].strip() if found else name
    return f"{name}, Python {platform.python_version()}, torch {torch.__version__}"
