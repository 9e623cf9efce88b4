"""Every shell script: checked by shellcheck, strict, and with no words read twice."""

import os
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
    code = re.sub(r"(^|\s)#.*", "", text)
    assert not re.search(
        r"""(^|[\s;&|(`])(eval|source /dev/stdin|(ba)?sh\s+-c\s+"?\$)""", code
    )
    if script.name not in SOURCED:
        late = (
            "\nset -eo pipefail\n" in text and "\nset -u\n" in text
        )  # after ESPnet's path.sh
        assert late or "\nset -euo pipefail\n" in text
        assert text.startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("there, options, code", [
    (True, [], 0), (False, [], 2), (False, ["--stop_stage", "12"], 0),
    (False, ["--stage", "14"], 0), (False, ["--skip_stages", "9 13"], 0),
    (False, ["--skip_eval", "true"], 0),
])  # fmt: skip
def test_what_scores_in_a_checkout_is_looked_for_first(tmp_path, there, options, code):
    checkout, recipe = tmp_path / "espnet", tmp_path / "asr1"
    (checkout / "egs2/TEMPLATE/asr1").mkdir(parents=True)
    theirs = checkout / "egs2/TEMPLATE/asr1/asr.sh"
    theirs.write_text("#!/bin/sh\necho ran\n")
    theirs.chmod(0o755)
    # Whatever is installed on this machine.
    (checkout / "tools").mkdir()
    (checkout / "tools/extra_path.sh").write_text(
        f'command() {{ if [ "$2" = sclite ]; then {str(there).lower()}; '
        'else builtin command "$@"; fi; }\n'
    )
    recipe.mkdir()
    (recipe / "path.sh").symlink_to(ROOT / "egs2/TEMPLATE/asr1/path.sh")
    done = subprocess.run(
        [ROOT / "egs2/TEMPLATE/asr1/asr.sh", "--espnet_root", checkout, "--skip_sizes", "true",
         *options], cwd=recipe, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("ran" in done.stdout) == (code == 0)
    assert ("sclite, with which stage 13" in done.stderr) == (code != 0)


def test_a_queue_without_its_options_is_refused_before_anything_runs(tmp_path):
    checkout, recipe = tmp_path / "espnet", tmp_path / "asr1"
    (checkout / "egs2/TEMPLATE/asr1").mkdir(parents=True)
    theirs = checkout / "egs2/TEMPLATE/asr1/asr.sh"
    theirs.write_text("#!/bin/sh\necho ran\n")
    theirs.chmod(0o755)
    (recipe / "conf").mkdir(parents=True)
    (recipe / "path.sh").symlink_to(ROOT / "egs2/TEMPLATE/asr1/path.sh")

    def run() -> subprocess.CompletedProcess:
        return subprocess.run(
            [ROOT / "egs2/TEMPLATE/asr1/asr.sh", "--espnet_root", checkout,
             "--stop_stage", "10"], cwd=recipe, capture_output=True, text=True,
            env={**os.environ, "cmd_backend": "slurm"},
        )  # fmt: skip

    done = run()
    assert done.returncode == 2 and "ran" not in done.stdout
    assert f"copy {checkout}/egs2/TEMPLATE/asr1/conf/slurm.conf" in done.stderr
    (recipe / "conf/slurm.conf").write_text("command sbatch\n")
    done = run()
    assert done.returncode == 0 and "ran" in done.stdout, done.stderr
