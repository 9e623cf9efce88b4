"""What the package imports is declared, and what is installed here is what was declared."""

import ast
import re
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def setup_argument(name: str):
    """A keyword of the call in setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    (value,) = (k.value for call in calls for k in call.keywords if k.arg == name)
    return ast.literal_eval(value)


REQUIRED = [Requirement(text) for text in setup_argument("install_requires")]
EXTRAS = setup_argument("extras_require")


def canonical(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def imports() -> dict[str, set[str]]:
    """Third-party packages at the top, and the files that import them."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "espnet_des").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            for name in (name.split(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name != "espnet_des":
                    found.setdefault(name, set()).add(str(file.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("name", sorted(imports()))
def test_what_is_imported_is_declared(name):
    """Of an extra only by the files of that extra's feature, which import it when used."""
    own = {canonical(r.name) for r in REQUIRED}
    providers = {canonical(d) for d in packages_distributions().get(name, [name])}
    if providers & own:
        return
    feature = {
        "onnx": "espnet_des/deploy/onnx/",
        "sherpa": "espnet_des/deploy/onnx/sherpa/",
        "demo": "espnet_des/corpus/",
        "natural": "espnet_des/corpus/",
        "read": "espnet_des/corpus/",
        "check-voices": "espnet_des/measure/voices.py",
    }
    folders = [
        folder for extra, folder in feature.items()
        if providers & {canonical(d) for d in EXTRAS[extra]}
    ]  # fmt: skip
    assert folders, f"{name} is in no list of setup.py"
    assert all(file.startswith(tuple(folders)) for file in imports()[name])


def test_the_test_extra_holds_the_others():
    """Of the package's features; documentation and natural voices have targets of their own."""
    others = {"test", "docs", "natural", "check-voices"}
    needed = {name for extra in EXTRAS.keys() - others for name in EXTRAS[extra]}
    assert needed <= set(EXTRAS["test"])


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda r: r.name)
def test_what_is_installed_is_admitted(requirement):
    assert requirement.specifier.contains(version(requirement.name), prereleases=True)


@pytest.mark.parametrize("name", ["espnet", "torch"])
def test_what_has_private_names_in_use_has_an_upper_end(name):
    (requirement,) = (r for r in REQUIRED if r.name == name)
    assert {s.operator for s in requirement.specifier} == {">=", "<"}


def test_the_hooks_of_a_commit_are_tools_of_the_environment():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for repo in config["repos"]:
        assert repo["repo"] == "local", "others would be downloaded"
        for hook in repo["hooks"]:
            assert hook["language"] == "system"
            program = hook["entry"].split()[0]
            assert program.startswith(".venv/bin/")
            assert Path(program).name in EXTRAS["test"]
