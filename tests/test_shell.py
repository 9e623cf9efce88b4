"""Every shell script: checked by shellcheck, strict, and with no words read twice."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path for folder in ("egs2", ".ci", "tests") for path in (ROOT / folder).rglob("*")
    if path.is_file() and not path.is_symlink()
    and (path.suffix == ".sh" or path.parent.name == ".ci")
    and not {"exp", "dump", "downloads"} & set(path.parts)
)  # fmt: skip
SOURCED = {"path.sh", "cmd.sh", "db.sh"}  # by scripts that are strict themselves


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_scripts():
    assert len(SCRIPTS) > 10


@pytest.mark.parametrize("script", SCRIPTS, ids=names)
def test_shellcheck_finds_nothing(script):
    command = [Path(sys.executable).parent / "shellcheck", "--external-sources", "--exclude",
               "SC1091", script]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=names)
def test_scripts_stop_at_an_error_and_evaluate_nothing(script):
    text = script.read_text()
    assert not re.search(r"^\s*eval\b", text, re.MULTILINE)
    if script.name not in SOURCED:
        late = "\nset -eo pipefail\n" in text and "\nset -u\n" in text  # after ESPnet's path.sh
        assert late or "\nset -euo pipefail\n" in text
        assert text.startswith("#!/usr/bin/env bash\n")
