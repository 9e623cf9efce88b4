"""The comparison: trains what is missing, and writes tables and pictures of what is there."""

import json
from collections.abc import Sequence
from pathlib import Path

from espnet_des.compare.plans import PLANS, sections, systems_of
from espnet_des.compare.run import Run, base_config
from espnet_des.compare.schedule import check_finished, run_all
from espnet_des.compare.systems import System
from espnet_des.compare.tables import Results, Table
from espnet_des.compare.taken import seeds_of, take
from espnet_des.errors import ConfigError
from espnet_des.recipe.process import say
from espnet_des.utils.files import alone_in, write_atomically


def compare(
    recipe: Path,
    what: str = "compare",
    seeds: int = 3,
    jobs: int = 2,
    only: Sequence[str] | None = None,
    taken: Sequence[Path] | None = None,
) -> None:
    """Train, decode and compare; writes ``results/<what>.md``, ``.json`` and pictures.

    Stopped and started again it goes on where it was. What is not finished is marked
    open in the tables, which are written anew after every training.

    Args:
        recipe: folder of the recipe.
        what: ``compare``, ``ablations``, ``budgets``, ``shrink``, ``front_ends``,
            ``rates``, ``fast`` or ``rivals``.
        seeds: number of trainings of every system.
        jobs: trainings side by side, each with OMP_NUM_THREADS threads (1 by default).
        only: names of systems to train now; the tables have all of them.
        taken: ``results/*.json`` of this recipe on other machines: what is finished there
            is not trained again.

    Raises:
        RuntimeError: where a training fails, where one of another config is there, and
            where another comparison runs in this folder.
    """
    recipe = Path(recipe).resolve()
    if not (recipe / "conf" / "train_des.yaml").exists():
        raise ConfigError(f"recipe: {recipe} has no conf/train_des.yaml")
    for key, value in (("seeds", seeds), ("jobs", jobs)):
        if value < 1:
            raise ConfigError(f"{key}: {value} must be at least 1")
    systems = systems_of(what, base_config(recipe))
    names = [system.name for system in systems]
    for name in only or ():
        if name not in names:
            raise ConfigError(f"only: {name!r} must be one of {names}")
    # Seed by seed: what is there early on covers all systems. What there is of further seeds, here
    # or taken, is in the tables, and is not trained.
    known = max(seeds, seeds_of(taken or ()), seeds_in(recipe, systems))
    runs = [Run(system.name, seed, recipe, system.sizes, system.plan)
            for seed in range(known) for system in systems]  # fmt: skip
    chosen = [run for run in runs if run.seed < seeds and (only is None or run.system in only)]
    with alone_in(recipe / "exp", "comparison"):
        if taken:
            take(taken, runs, systems)
        check_finished(runs, systems)
        set_aside(recipe / "results", what, runs)
        write_results(recipe, what, systems, runs)
        try:
            run_all(chosen, systems, jobs, lambda: write_results(recipe, what, systems, runs))
        finally:
            write_results(recipe, what, systems, runs)
    say(f"Results: {recipe / 'results' / what}.md")


def seeds_in(recipe: Path, systems: Sequence[System]) -> int:
    """How many seeds are finished in this folder, counted as by :func:`seeds_of`."""
    names = {f"asr_{system.plan}_{system.name}" for system in systems}
    found = (file.parent.name.rpartition("_seed")
             for file in (recipe / "exp").glob("asr_*_seed*/result.json"))  # fmt: skip
    return max((int(seed) + 1 for name, _, seed in found if name in names), default=0)


def set_aside(folder: Path, what: str, runs: list[Run]) -> None:
    """Keep tables of trainings that are not here under another name.

    They came with the recipe, or from another machine, and are not among ``--taken``.
    """
    table = folder / f"{what}.json"
    if not table.exists():
        return
    here = {(run.system, run.seed) for run in runs if run.result() is not None}
    found = {(run["system"], run["seed"]) for run in json.loads(table.read_text())["runs"]}
    if found <= here:
        return
    stem, number = f"{what}.before", 1
    while table.with_stem(stem).exists():
        number += 1
        stem = f"{what}.before{number}"
    kept = table.with_stem(stem)
    say(
        f"{table} has {len(found - here)} trainings that are not in exp/: it is {kept.name} now. "
        f"To go on from it: --taken {kept}"
    )
    for file in (table, table.with_suffix(".md")):
        if file.exists():
            file.replace(file.with_stem(stem))


def write_results(recipe: Path, what: str, systems: list[System], runs: list[Run]) -> None:
    results: Results = {}
    for run in runs:
        found = run.result()
        if found is not None:
            results.setdefault(run.system, {})[run.seed] = found
    folder = recipe / "results"
    folder.mkdir(exist_ok=True)
    table = Table(systems, results)
    text = describe(what, runs, results) + sections(what, table)
    write_atomically(folder / f"{what}.md", lambda p: p.write_text(text, "utf-8"))
    finished = [r for of_system in results.values() for r in of_system.values()]
    # A training on a line: as text, what changed can be seen.
    lines = ",\n".join(json.dumps(result) for result in finished)
    as_json = f'{{"runs": [\n{lines}\n]}}\n'
    write_atomically(folder / f"{what}.json", lambda p: p.write_text(as_json))
    if results:
        PLANS[what].draw(table, base_config(recipe), folder)


def describe(what: str, runs: list[Run], results: Results) -> str:
    finished = [r for of_system in results.values() for r in of_system.values()]
    text = (
        f"# {runs[0].recipe.parent.name}: {what}\n\n{len(finished)} of {len(runs)} trainings "
        "are finished; what is not is marked open.\n"
    )
    if not finished:
        return text
    first = finished[0]
    versions = sorted({", ".join(f"{k} {v}" for k, v in r["versions"].items())
                       for r in finished})  # fmt: skip
    counts = ", ".join(
        f"{name}: {s['utterances']} utterances, {sum(s['words'])} words, "
        f"{len(s['speakers'])} speakers" for name, s in first["sets"].items()
    )  # fmt: skip
    places = {f"{r['ngpu']} GPU" if r.get("ngpu") else f"{r.get('threads', 1)} thread"
              for r in finished}  # fmt: skip
    updates = " or ".join(str(n) for n in sorted({r["updates"] for r in finished}))
    return text + (
        f"{updates} updates each, {' or '.join(sorted(places))} for each training; "
        f"{'; '.join(versions)}.\n{counts}. "
        "WER by CTC best path, over both test sets; ± is the standard deviation over seeds. "
        "Differences: over the seeds that both have, with 95% intervals from the spread of the "
        "paired differences over seeds (Student's t) and a bootstrap of speakers.\n"
    )
