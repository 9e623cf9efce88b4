"""What README.md, RESULTS.md and the pages of docs/ say is there, and was measured."""

import ast
import dataclasses
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from espnet2.tasks.asr import ASRTask
from espnet_des.method.options import SelectionOptions

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "espnet_des"
PAGES = sorted((ROOT / "docs").glob("*.md"))
AT_THE_TOP = [
    ROOT / f"{name}.md" for name in ("README", "RESULTS", "CONTRIBUTING", "CHANGELOG")
]
DOCUMENTS = [str(path.relative_to(ROOT)) for path in [*AT_THE_TOP, *PAGES]]
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
every_document = pytest.mark.parametrize("name", DOCUMENTS)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return FENCE.sub("", text)


def snippets(text: str, *languages: str):
    """The blocks of code in these languages."""
    return [code for language, code in FENCE.findall(text) if language in languages]


def inline_code(text: str):
    return re.findall(r"`([^`\n]+)`", prose(text))


def table_rows(text: str):
    """Cells of the rows of all tables in a text."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in text.splitlines() if line.strip().startswith("|")]  # fmt: skip
    return [row for row in rows if not all(re.fullmatch(":?-+:?", cell) for cell in row)]


def anchors(text: str):
    """What links to the headings of a document end with, on GitHub and in MyST."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@every_document
def test_headings_leave_no_level_out(name):
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose(read(name)), re.MULTILINE)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


@every_document
def test_links_lead_somewhere(name):
    text, gone = read(name), []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", prose(text))):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path.read_text("utf-8"))):
            gone.append(link)
    assert not gone


@every_document
def test_commands_exist(name):
    text = read(name)
    commands = {*re.findall(r"espnet_des\.bin\.(\w+)", text)}
    assert [c for c in commands if not (PACKAGE / f"bin/{c}.py").exists()] == []
    code = "\n".join([*inline_code(text), *snippets(text, "sh")])
    targets = {*re.findall(r"^make ([a-z][a-z-]*)", code, re.MULTILINE)}
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split()
    assert targets <= set(phony)


@every_document
def test_options_of_commands_exist(name):
    for line in "\n".join(snippets(read(name), "sh")).replace("\\\n", " ").splitlines():
        called = re.search(r"espnet_des\.bin\.(\w+)|compare\.sh", line)
        if called is None:
            continue
        source = read(f"espnet_des/bin/{called[1] or 'compare'}.py")
        if "add_budgets" in source:
            source += read("espnet_des/utils/command.py")
        given = re.findall(r" (--\w+)", line[called.end() :].partition(" #")[0])
        if "parse_known_args" in source:  # the others are those of asr_train
            theirs = ASRTask.get_parser()._option_string_actions
            given = [option for option in given if option not in theirs]
        assert [option for option in given if f'"{option}"' not in source] == [], line


@every_document
def test_files_that_are_named_exist(name):
    """Python files, named from the top or from the package, and all that is in tests/ and conf/."""
    named = [code for code in inline_code(read(name))
             if re.fullmatch(r"[\w./]+\.py|(tests|conf|\.ci)/[\w./]*", code)]  # fmt: skip
    assert [n for n in named if not (ROOT / n).exists() and not (PACKAGE / n).exists()] == []


@every_document
def test_snippets_can_be_read(name):
    text = read(name)
    for code in snippets(text, "yaml"):
        assert isinstance(yaml.safe_load(code), dict)
    for code in snippets(text, "python"):
        compile(code, name, "exec")
    for code in snippets(text, "sh"):
        checked = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True)
        assert checked.returncode == 0, f"{code}\n{checked.stderr}"


def test_the_readme_is_short():
    assert len(read("README.md").splitlines()) <= 130


def test_every_page_is_in_the_index():
    shown = set("\n".join(snippets(read("docs/index.md"), "{toctree}")).split())
    assert {page.stem for page in PAGES} - {"index"} <= shown


def test_every_number_of_the_results_was_written_by_a_command():
    written = [row for path in ROOT.glob("egs2/compare_*/asr1/results/**/*.md")
               for row in table_rows(path.read_text("utf-8"))]  # fmt: skip
    quoted = table_rows(read("RESULTS.md")) + table_rows(read("docs/earlier_results.md"))
    assert quoted
    assert [row for row in quoted if row not in written] == []


def test_the_readme_has_the_tables_of_the_documentation():
    pages = [row for page in PAGES for row in table_rows(page.read_text("utf-8"))]
    told = [cells[1:] for cells in pages]
    quoted = table_rows(read("README.md"))
    assert quoted
    assert [row for row in quoted if row[1:] not in told] == []


def test_options_tells_every_setting_and_its_default():
    rows = {
        row[0].strip("`"): row[1].strip("`") for row in table_rows(read("docs/options.md"))
    }
    for field in dataclasses.fields(SelectionOptions):
        assert field.name in rows
        if field.default is not None:
            is_bool = isinstance(field.default, bool)
            default = str(field.default).lower() if is_bool else str(field.default)
            assert rows[field.name] == default
    assert rows["selection_share"] == str(SelectionOptions.DEFAULT_SHARE)


def test_options_tells_every_key_of_the_encoder():
    from espnet_des.nn.encoders import SUPERNETS
    from espnet_des.nn.front_end import OWN_KEYS

    rows = {
        row[0].strip("`"): row[1].strip("`") for row in table_rows(read("docs/options.md"))
    }
    for encoder in SUPERNETS.values():
        assert {"sizes", *encoder.block_type.own_keys, *OWN_KEYS} <= set(rows)


def test_the_reference_has_every_module_and_command():
    text = read("docs/api.md")
    shown = re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)
    modules, commands = set(), set()
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "bin" in parts:
            commands.add(path.stem)
        elif ast.parse(path.read_text("utf-8")).body[1:] or parts[-1] != "__init__":
            modules.add(".".join(part for part in parts if part != "__init__"))
    elsewhere = {"espnet_des.espnet_api", "espnet_des.deploy.onnx.example"}
    assert sorted(shown) == sorted(modules - elsewhere)
    assert commands - {"__init__"} <= {row[0].strip("`") for row in table_rows(text)}
