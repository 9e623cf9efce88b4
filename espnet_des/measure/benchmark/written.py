"""Files of a benchmark: a table for readers, and the same for programs."""

import json
from pathlib import Path

from espnet_des.utils.files import write_atomically


def write_report(output_dir: Path, name: str, text: str, content: dict) -> None:
    """Write ``<name>.md`` and ``<name>.json``."""
    as_json = json.dumps(content, indent=2) + "\n"
    write_atomically(output_dir / f"{name}.md", lambda p: p.write_text(text))
    write_atomically(output_dir / f"{name}.json", lambda p: p.write_text(as_json))
