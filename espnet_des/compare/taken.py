"""Finished trainings of another machine, taken from the results that it wrote."""

import json
from collections.abc import Sequence
from pathlib import Path

from espnet_des.compare.defaults import changed
from espnet_des.compare.run import Run, base_config, other_data
from espnet_des.compare.schedule import config_of, first_sets, needed_runs
from espnet_des.compare.systems import System
from espnet_des.errors import ConfigError
from espnet_des.recipe.process import say
from espnet_des.utils.files import write_atomically


def take(files: Sequence[Path], runs: Sequence[Run], systems: Sequence[System]) -> None:
    """Write the results in these files to where the runs themselves would.

    What is finished here stays as it is; what is not among the runs is left out.

    Args:
        files: ``results/*.json`` of the same recipe elsewhere.
        runs: of this comparison; one that needs another stands behind it.
        systems: what they are of.

    Raises:
        ConfigError: where a file is none of these, and where a training was of another config
            or other defaults or data, or decoded other test sets than here. What came before it is
            taken.
    """
    found: dict[tuple[str, int], tuple[Path, dict]] = {}
    for file in files:
        found |= {(result["system"], result["seed"]): (file, result) for result in _read(file)}
    base, of_name = base_config(runs[0].recipe), {s.name: s for s in systems}
    sets = first_sets(runs)
    number = 0
    for run in runs:
        if (run.system, run.seed) not in found or run.result() is not None:
            continue
        if any(needed.result() is None for needed in needed_runs(run, of_name)):
            continue
        file, result = found[run.system, run.seed]
        config = config_of(run, base, of_name)
        run.check_config(config)
        if result["config_sha256"] != run.config_hash(config):
            raise ConfigError(
                f"{file}: {run.system}, seed {run.seed}, is of another config than here: leave "
                f"it out, or take conf/train_des.yaml (and espnet_des) from where it was trained"
            )
        others = changed(result, config)
        if others:
            raise ConfigError(
                f"{file}: {run.system}, seed {run.seed}, was trained with other defaults than "
                f"those here ({others}): leave it out"
            )
        differs = other_data(result, run.recipe)
        if differs:
            raise ConfigError(
                f"{file}: {run.system}, seed {run.seed}, was trained with other "
                f"{' and '.join(differs)} than here (conf/run.options, downloads/): "
                "leave it out"
            )
        sets = result["sets"] if sets is None else sets
        if result["sets"] != sets:
            raise ConfigError(f"{file}: {run.system}, seed {run.seed}, is of other test sets")
        run.exp.mkdir(parents=True, exist_ok=True)
        (run.exp / "train.yaml").write_text(run.as_yaml(config))
        write_atomically(run.result_file, lambda p: p.write_text(json.dumps(result) + "\n"))
        number += 1
    say(f"{number} finished trainings are taken from {', '.join(map(str, files))}")


def seeds_of(files: Sequence[Path]) -> int:
    """How many seeds they have: one more than the last, since they begin at 0."""
    return max((run["seed"] + 1 for file in files for run in _read(file)), default=0)


def _read(file: Path) -> list[dict]:
    if not Path(file).exists():
        raise ConfigError(f"taken: {file} is not there, seen from {Path.cwd()}")
    try:
        runs = json.loads(Path(file).read_text())["runs"]
        if all({"sets", "config_sha256", "system", "seed"} <= set(run) for run in runs):
            return runs
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"taken: {file} is not a results/*.json that a comparison wrote")
