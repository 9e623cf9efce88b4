"""What README.md and RESULTS.md say is there, and was measured."""

import re
from pathlib import Path

import pytest

from espnet_des.method.options import SelectionOptions

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "RESULTS.md"]


def table_rows(path: Path):
    """Cells of the rows of all tables in a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in lines if line.startswith("|")]  # fmt: skip
    return [row for row in rows if not all(re.fullmatch(":?-+:?", cell) for cell in row)]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert targets
    gone = [t for t in targets if "://" not in t and not (ROOT / t).exists()]
    assert not gone


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    commands = {*re.findall(r"espnet_des\.bin\.(\w+)", text)}
    assert all((ROOT / f"espnet_des/bin/{command}.py").exists() for command in commands)
    makefile = (ROOT / "Makefile").read_text()
    targets = {*re.findall(r"make ([a-z][a-z-]*)", text)}
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    assert targets and targets <= set(phony)


def test_every_number_of_the_results_was_written_by_a_command():
    written = [row for path in ROOT.glob("egs2/compare_*/asr1/results/*.md")
               for row in table_rows(path)]  # fmt: skip
    quoted = table_rows(ROOT / "RESULTS.md")
    assert quoted
    assert [row for row in quoted if row not in written] == []


def test_readme_tells_every_setting_of_the_method():
    first = [row[0] for row in table_rows(ROOT / "README.md")]
    told = {cell.strip("`") for cell in first}
    assert set(SelectionOptions.keys()) <= told
