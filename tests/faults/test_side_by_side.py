"""Two runs of a recipe at once, from a source tree that they must not touch."""

import subprocess

import pytest

from espnet_des.recipe.train import run_training
from espnet_des.utils.files import alone_in
from tests.recipe.test_driver import RECIPE, command_of, make_folder

pytestmark = pytest.mark.faults

ROOT = RECIPE.parents[2]
WATCHED = (
    "espnet_des",
    "egs2/TEMPLATE",
    "egs2/mini_digits",
    "conf",
    "tests",
    "setup.py",
    "Makefile",
)


def listing(root):
    """Every file that a recipe could write to, with its size and time; data and exp too."""
    return {
        path: (path.lstat().st_size, path.lstat().st_mtime_ns)
        for part in WATCHED
        for path in [root / part, *(root / part).rglob("*")]
        if "__pycache__" not in path.parts and not path.is_dir()
    }


def test_two_runs_share_the_data_and_nothing_else(tmp_path):
    folder = make_folder(tmp_path / "two runs")
    before = listing(ROOT)
    first = subprocess.run(**command_of(folder, "--stop_stage", "10", "--expdir", "first run"))
    assert first.returncode == 0, first.stdout + first.stderr
    runs = [
        subprocess.Popen(**command_of(folder, "--stage", "10", "--expdir", name))
        for name in ("first run", "second run")
    ]
    for process in runs:
        out, err = process.communicate()
        assert process.returncode == 0, out + err
    one, two = (folder / f"{name}/asr_simple_top_k" for name in ("first run", "second run"))
    assert (one / "3epoch.pth").read_bytes() == (two / "3epoch.pth").read_bytes()
    assert (folder / "second run/sizes.md").exists()
    assert listing(ROOT) == before


def test_a_second_training_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    """Also where only the training itself is left of the first."""
    monkeypatch.setattr("espnet_des.utils.files.DYING_SECONDS", 0)
    with alone_in(tmp_path, "training") as lock:
        first = subprocess.Popen(["sleep", "100"], pass_fds=[lock.fileno()])
    with pytest.raises(
        RuntimeError, match=f"another training runs in {tmp_path}: wait for it"
    ):
        run_training(["true"], tmp_path)
    assert not (tmp_path / "train.log").exists()
    first.kill()
    first.wait()
    run_training(["echo", "done"], tmp_path)
    assert "done" in (tmp_path / "train.log").read_text()
