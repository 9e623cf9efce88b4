"""Run all systems, several side by side; what is finished is not run again."""

import concurrent.futures
import contextlib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from espnet_des.compare.defaults import changed
from espnet_des.compare.run import (
    MODEL_FILE,
    Run,
    as_words,
    base_config,
    execute,
    options_of,
    other_data,
    quiet,
)
from espnet_des.compare.systems import OTHER_TOKENS, SHRINK, System
from espnet_des.corpus.spoken import DONE
from espnet_des.recipe.process import say
from espnet_des.recipe.train import check_gpus
from espnet_des.utils.processes import lifeline, spawned
from espnet_des.utils.progress import progress


def run_all(
    runs: list[Run], systems: Sequence[System], jobs: int, after_each: Callable[[], None]
) -> None:
    """Execute the runs in their order, ``jobs`` at a time.

    A run that needs what another one kept, or trained, waits for it. Stopped at any
    moment, the same call goes on.

    Args:
        runs: what to do, in this order.
        systems: what they are of.
        jobs: how many side by side.
        after_each: called when a run has ended.

    Raises:
        RuntimeError: where runs failed, after the others have ended; before any where there
            is no GPU for them.
    """
    waiting = [run for run in runs if run.result() is None]
    say(f"{len(runs) - len(waiting)} of {len(runs)} trainings are done already")
    if not waiting:
        return
    check_gpus(ngpu_of(waiting[0].recipe))
    prepare_data(waiting[0].recipe)
    epochs = {run.name: base_config(run.recipe)["max_epoch"] for run in runs}
    done = {run.name: epochs[run.name] for run in runs if run not in waiting}
    bar = progress(total=sum(epochs.values()), desc="epochs", unit="epoch")
    failed: dict[str, BaseException] = {}
    base, of_name = base_config(waiting[0].recipe), {s.name: s for s in systems}
    with contextlib.ExitStack() as pools:
        running: dict[concurrent.futures.Future, Run] = {}
        pool_of: dict[concurrent.futures.Future, concurrent.futures.Executor] = {}
        while waiting or running:
            for run in list(waiting):
                if len(running) == jobs:
                    break
                lacking = [n for n in needed_runs(run, of_name) if not n.result()]
                if any(n in runs and n.name not in failed for n in lacking):
                    continue  # until those have ended
                waiting.remove(run)
                try:
                    if lacking:
                        raise RuntimeError(f"it needs {lacking[0].name}, which is missing")
                    config = config_of(run, base, of_name)
                    check_begins_with(config, run.recipe)
                    if OTHER_TOKENS in config:
                        prepare_data(run.recipe, config[OTHER_TOKENS])
                except (RuntimeError, ValueError) as why:  # the others go on
                    failed[run.name] = why
                else:
                    # A process of its own: where one is killed, the others go on.
                    pool = pools.enter_context(spawned(1, begin=quiet))
                    future = pool.submit(execute, run, config)
                    running[future], pool_of[future] = run, pool
            ended, _ = concurrent.futures.wait(
                running, timeout=10, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in ended:
                run = running.pop(future)
                pool_of.pop(future).shutdown()
                error = future.exception() or without_other_sets(run, runs)
                if error is None:
                    bar.write(f"{run.name}: {_describe(run)}")
                else:
                    failed[run.name] = error
                    bar.write(f"{run.name} failed: {error}")
                done[run.name] = epochs[run.name]
                after_each()
            for run in running.values():
                done[run.name] = run.epochs_done()
            bar.set_postfix_str(", ".join(run.name for run in running.values()), refresh=False)
            bar.update(sum(done.values()) - bar.n)
    bar.close()
    if failed:
        lines = [f"{name}: {error}" for name, error in failed.items()]
        raise RuntimeError("\n".join(["these trainings failed:", *lines]))


def first_sets(runs: Sequence[Run]) -> dict | None:
    """What the first finished run has decoded; None where none is finished."""
    return next((run.finished()["sets"] for run in runs if run.result() is not None), None)


def other_sets(run: Run, runs: Sequence[Run]) -> RuntimeError | None:
    """What is wrong where a finished run has heard other test sets than those before it."""
    if run.finished()["sets"] == first_sets([*runs, run]):
        return None
    return RuntimeError(
        f"{run.exp} has decoded other test sets than the other trainings: remove it, or those "
        "that were trained elsewhere"
    )


def without_other_sets(run: Run, runs: Sequence[Run]) -> RuntimeError | None:
    """As :func:`other_sets`; such a result is put aside, out of the tables."""
    wrong = other_sets(run, runs)
    if wrong is not None:
        run.result_file.rename(run.result_file.with_suffix(".other_sets.json"))
    return wrong


def needed_runs(run: Run, systems: dict[str, System]) -> list[Run]:
    """The runs without which this one cannot begin."""
    system = systems[run.system]
    names = dict.fromkeys([system.needs, system.begins_with])
    return [of_system(name, run, systems) for name in names if name is not None]


def source_of_layers(run: Run, systems: dict[str, System]) -> Run | None:
    """The run whose kept layers this one is made of; None where it has none of another."""
    needs = systems[run.system].needs
    return None if needs is None else of_system(needs, run, systems)


def of_system(name: str, run: Run, systems: dict[str, System]) -> Run:
    """The run of another system with the same seed."""
    return Run(name, run.seed, run.recipe, systems[name].sizes, systems[name].plan)


def config_of(run: Run, base: dict, systems: dict[str, System]) -> dict:
    """Training config of a run; what it needs must be finished."""
    needed = source_of_layers(run, systems)
    kept = None if needed is None else needed.kept_layers()
    return systems[run.system].config(base, run.seed, kept)


def check_begins_with(config: dict, recipe: Path) -> None:
    """Refuse a training that needs a model of which there is only the result.

    Raises:
        RuntimeError: naming the model.
    """
    files = list(config.get("init_param", []))
    if SHRINK in config:
        files.append(f"{config[SHRINK]['shrink']}/{MODEL_FILE}")
    if "teacher_model_file" in config.get("model_conf", {}):
        files.append(config["model_conf"]["teacher_model_file"])
    for file in files:
        if not (recipe / file).exists():
            raise RuntimeError(
                f"it needs {file}, which is not here: a result that is taken from elsewhere "
                f"brings no model. Remove {(recipe / file).parent} and leave out --taken to "
                "train it here"
            )


def check_finished(runs: list[Run], systems: Sequence[System]) -> None:
    """Refuse results of another config, or test set: they must not stand in one table.

    Raises:
        RuntimeError: naming the first.
    """
    base, of_name = base_config(runs[0].recipe), {s.name: s for s in systems}
    for run in runs:
        if run.result() is None:
            continue
        for needed in needed_runs(run, of_name):
            if needed.result() is None:
                raise RuntimeError(
                    f"{run.exp} is made of {needed.exp} (its layers, or what it has learned), "
                    "which is not there any more: remove it as well"
                )
        wrong = other_sets(run, runs)
        if wrong is not None:
            raise wrong
        differs = other_data(run.finished(), run.recipe)
        if differs:
            raise RuntimeError(
                f"{run.exp} was trained with other {' and '.join(differs)} (conf/"
                "run.options, downloads/): remove it to train it anew, or put those back"
            )
        config = config_of(run, base, of_name)
        run.check_config(config)
        others = changed(run.finished(), config)
        if others:
            raise RuntimeError(
                f"{run.exp} was trained with other defaults ({others}): remove it to train it "
                "anew, or give them in conf/train_des.yaml"
            )


def _describe(run: Run) -> str:
    """WER at each size over all test sets."""
    found = run.finished()
    words = sum(sum(s["words"]) for s in found["sets"].values())
    rates = {
        size: 100 * sum(map(sum, of_size["errors"].values())) / words
        for size, of_size in found["sizes"].items()
    }
    return "WER " + ", ".join(f"{rate:.2f}% at {size}" for size, rate in rates.items())


def ngpu_of(recipe: Path) -> int:
    """What a recipe's own options train on; others train on the CPU."""
    return int(options_of(recipe).get("--ngpu", 0))


def prepare_data(recipe: Path, tokens: dict | None = None) -> None:
    """Stages 1 to 10, once; again where the front end or the corpus is another.

    Args:
        recipe: folder of the recipe.
        tokens: options of the recipe for others than its own: stages 5 to 10.

    Raises:
        RuntimeError: where they fail.
    """
    words, first = as_words(tokens or {}), "5" if tokens else "1"
    mark = recipe / "exp" / "".join([".prepared", *words])
    if mark.exists() and mark.read_text() == prepared_of(recipe):
        return
    stages = ["./run.sh", "--stage", first, "--stop_stage", "10", *words]
    code = subprocess.call(stages, cwd=recipe, **lifeline())
    if code:
        raise RuntimeError(
            f"stages {first} to 10 of {recipe}/run.sh failed (exit {code}): see above"
        )
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(prepared_of(recipe))


def prepared_of(recipe: Path) -> str:
    """What stages 1 to 10 depend on: corpus, options, and what changes the statistics."""
    base = base_config(recipe)
    text = yaml.safe_dump({key: base.get(key) for key in ("frontend", "frontend_conf")})
    for file in (recipe / "conf" / "run.options", recipe / "downloads" / DONE):
        text += file.read_text() if file.exists() else ""
    return text
