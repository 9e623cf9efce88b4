"""Folders of the package import downwards only, and say what lives in them."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "espnet_des"
# From the top down: each may import from those below it (docs/developing.md).
FLOORS = [
    ("__main__", "bin"),
    ("__init__",),
    ("registry", "task"),
    ("compare",),
    ("recipe",),
    ("shrink",),
    ("measure",),
    ("deploy",),
    ("inference",),
    ("training",),
    ("corpus",),
    ("nn",),
    ("plot",),
    ("method",),
    ("utils",),
    ("espnet_api",),
    ("errors",),
]
FLOOR = {room: len(FLOORS) - number for number, floor in enumerate(FLOORS) for room in floor}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(file: Path) -> str:
    """Name of the folder at the top, or of the module that stands there."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(file: Path):
    """Modules of the package that a file imports, inside of functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("espnet_des"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("espnet_des"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                path = PACKAGE.joinpath(*name.split(".")[1:])
                is_module = path.is_dir() or path.with_suffix(".py").exists()
                yield name if is_module else node.module


def test_every_room_has_a_floor_and_the_top_has_a_dozen_modules_at_most():
    assert {room(file) for file in FILES} == set(FLOOR)
    assert len(list(PACKAGE.glob("*.py"))) <= 12


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_lead_downwards(file):
    own = room(file)
    for name in imported(file):
        other = (name.split(".") + ["__init__"])[1]
        if own == other or (own == "task" and other == "registry"):
            continue
        assert FLOOR[other] < FLOOR[own], f"{file} imports {name}"


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_there_is_no_circle():
    arrows = {module_name(file): set(imported(file)) for file in FILES}
    done, path = set(), []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in arrows.get(name, ()):
            visit(other)
        path.pop()
        done.add(name)

    for name in arrows:
        visit(name)


@pytest.mark.parametrize("folder", sorted(p.parent for p in PACKAGE.rglob("*/__init__.py")))
def test_a_folder_says_what_lives_there(folder):
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert text and text.count("\n") <= 4
    assert "import" in text.lower()


def test_the_method_knows_nothing_of_espnet():
    for file in (PACKAGE / "method").glob("*.py"):
        assert (
            "import espnet2" not in file.read_text() and "from espnet2" not in file.read_text()
        )
