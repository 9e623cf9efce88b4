"""A comparison of some systems, trained through the recipe on a tiny corpus."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_des.utils.files import alone_in

pytestmark = pytest.mark.recipes

ROOT = Path(__file__).parents[2]
SYSTEMS = ["simple_top_k", "simple_top_k_alone_8", "aux_loss", "separate_8"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    for part in ("egs2/TEMPLATE", "egs2/compare_digits", "conf/compare_digits"):
        ignored = shutil.ignore_patterns("data", "dump", "exp", "downloads", "results")
        shutil.copytree(ROOT / part, root / part, symlinks=True, ignore=ignored)
    recipe = root / "egs2/compare_digits/asr1"
    script = recipe / "local/data.sh"
    script.write_text(
        script.read_text().replace("--out downloads", "--out downloads --scale 0.02")
    )
    config = recipe / "conf/train_des.yaml"
    text = config.read_text()
    for key, value in {"num_iters_per_epoch": 6, "max_epoch": 4, "total_steps": 24,
                       "output_size": 16, "batch_bins": 200000}.items():  # fmt: skip
        text = re.sub(rf"{key}: \d+", f"{key}: {value}", text)
    config.write_text(text)
    return recipe


def compare(recipe, *options):
    venv = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{venv}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        ["./compare.sh", "--seeds", "1", *options], cwd=recipe, env=environment, text=True,
        capture_output=True,
    )  # fmt: skip


def test_what_is_needed_must_be_there(recipe):
    done = compare(recipe, "--only", "simple_top_k_alone_8")
    assert done.returncode == 1
    assert "needs compare_simple_top_k_seed0, which is missing" in done.stderr


def test_some_systems_are_trained_compared_and_not_trained_again(recipe):
    done = compare(recipe, "--only", *SYSTEMS)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (recipe / "results/compare.md").read_text()
    assert "4 of 16 trainings are finished" in text and "| open |" in text
    runs = json.loads((recipe / "results/compare.json").read_text())["runs"]
    assert sorted(run["system"] for run in runs) == sorted(SYSTEMS)
    kept = {run["system"]: {size: found["kept"] for size, found in run["sizes"].items()}
            for run in runs}  # fmt: skip
    assert kept["simple_top_k"]["8"] == kept["simple_top_k_alone_8"]["8"]
    assert list(kept["aux_loss"]) == ["8", "16", "24"]
    params = {run["system"]: {size: found["params"] for size, found in run["sizes"].items()}
              for run in runs}  # fmt: skip
    assert params["simple_top_k"]["24"] == params["aux_loss"]["24"]
    assert params["separate_8"] == {"8": params["aux_loss"]["8"]}
    assert params["simple_top_k"]["8"] == params["simple_top_k_alone_8"]["8"]
    for run in runs:
        assert run["cost"]["train"]["cpu"] > 0 and run["updates"] == 24
    for name in ("wer.png", "kept_layers_simple_top_k.png"):
        assert (recipe / "results" / name).stat().st_size > 10000
    files = {p: p.stat().st_mtime_ns for p in recipe.glob("exp/*/result.json")}
    again = compare(recipe, "--only", *SYSTEMS)
    assert again.returncode == 0 and "4 of 4 trainings are done already" in again.stdout
    assert files == {p: p.stat().st_mtime_ns for p in recipe.glob("exp/*/result.json")}


def test_results_of_another_machine_give_the_same_tables(recipe):
    text = (recipe / "results/compare.md").read_text()
    theirs = recipe.parent / "theirs.json"
    shutil.copy(recipe / "results/compare.json", theirs)
    (recipe / "exp").rename(recipe / "exp.away")
    try:
        done = compare(recipe, "--only", *SYSTEMS, "--taken", str(theirs))
        assert done.returncode == 0 and "4 of 4 trainings are done already" in done.stdout
        assert (recipe / "results/compare.md").read_text() == text
        assert (recipe / "results/compare.json").read_bytes() == theirs.read_bytes()
    finally:
        shutil.rmtree(recipe / "exp")
        (recipe / "exp.away").rename(recipe / "exp")


def test_two_comparisons_in_one_folder_are_one_too_many(recipe):
    with alone_in(recipe / "exp", "comparison"):
        done = compare(recipe, "--only", "separate_8")
    assert done.returncode == 1 and "another comparison runs in" in done.stderr


def test_another_config_is_neither_gone_on_with_nor_put_into_one_table(recipe):
    config = recipe / "conf/train_des.yaml"
    config.write_text(config.read_text().replace("grad_clip: 5.0", "grad_clip: 4.0"))
    table = (recipe / "results/compare.md").read_bytes()
    done = compare(recipe, "--only", "separate_8")
    assert done.returncode == 1 and "is of another config" in done.stderr
    assert (recipe / "results/compare.md").read_bytes() == table
    for result in recipe.glob("exp/*/result.json"):  # stopped, not finished
        result.unlink()
    done = compare(recipe, "--only", "separate_8")
    assert done.returncode == 1 and "is of another config" in done.stderr
