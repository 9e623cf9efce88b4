"""The comparison: trains what is missing, and writes tables and pictures of what is there."""

import json
from collections.abc import Sequence
from pathlib import Path

from espnet_des.compare.ablations import ablations
from espnet_des.compare.budgets import at_equal_macs, budgets, macs, off_the_line
from espnet_des.compare.fast import fast
from espnet_des.compare.front_ends import CONV2D_WORDS, front_ends
from espnet_des.compare.rates import rates
from espnet_des.compare.rivals import rivals
from espnet_des.compare.run import Run, base_config
from espnet_des.compare.schedule import check_finished, run_all
from espnet_des.compare.shrinks import BY_ANGLE, shrinks
from espnet_des.compare.systems import STK, Config, System, comparison
from espnet_des.compare.tables import Results, Table
from espnet_des.compare.taken import seeds_of, take
from espnet_des.errors import ConfigError
from espnet_des.method.methods import METHODS, OF_THE_PAPER
from espnet_des.recipe.process import say
from espnet_des.utils.files import alone_in, write_atomically

PLANS = {
    "compare": comparison, "ablations": ablations, "budgets": budgets, "shrink": shrinks,
    "front_ends": front_ends, "rates": rates, "fast": fast,
    "rivals": rivals,
}  # fmt: skip


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


def systems_of(what: str, base: Config) -> list[System]:
    """Those of a plan; one of the comparison's names is a training of the comparison."""
    compared = {system.name for system in comparison(base)}
    return [
        system if system.name in compared else system._replace(plan=what)
        for system in PLANS[what](base)
    ]


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
    from espnet_des.plot.rates import draw_kept_by_seed, draw_rates, draw_rates_by_cost
    from espnet_des.plot.style import save

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
    if what == "rivals" and results:
        save(draw_rates_by_cost(table, STK, [BY_ANGLE]), folder / "rivals.png")
    if what == "compare" and results:
        save(draw_rates(table), folder / "wer.png")
        for method in OF_THE_PAPER:
            if results.get(method):
                layers = base_layers(recipe)
                figure = draw_kept_by_seed(layers, results[method], table.groups[method][0])
                save(figure, folder / f"kept_layers_{method}.png")


def base_layers(recipe: Path) -> list:
    """What each layer of the full encoder is."""
    from espnet_des.method.layers import Layer
    from espnet_des.nn.encoders import SUPERNETS

    base = base_config(recipe)
    conf, kind = base["encoder_conf"], SUPERNETS[base["encoder"]].block_type
    kinds = kind.kinds(conf.get("layer_order", "espnet"))
    return [Layer(number, kind) for number in range(conf["num_blocks"]) for kind in kinds]


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


def of_methods(table: Table, to: str, of: str) -> str:
    """Differences of one system to another of each method, whose name stands at ``{}``."""
    names = [name for name in OF_THE_PAPER if to.format(name) in table.groups]
    return "\n".join(table.differences(to.format(n), [of.format(n)]) for n in names)


def sections(what: str, table: Table) -> str:
    if what == "ablations":
        parts = {METHODS[name].title: table.ablations(name) for name in OF_THE_PAPER}
    elif what == "budgets":
        parts = {
            "Word error rates": table.error_rates(),
            "Differences to the training for three sizes": table.differences("simple_top_k"),
            "Differences to any size at equal MACs": at_equal_macs(table, "any_size"),
            "A size between its neighbours": off_the_line(table),
            "MACs": macs(table),
            "Parameters": table.parameters(),
            "Cost": table.costs(),
        }
    elif what == "front_ends":
        conv2d = next(iter(table.groups))
        parts = {
            "Word error rates": table.error_rates(),
            "Differences to conv2d": table.differences(
                conv2d, [g for g in table.groups if not g.endswith("_words") and g != conv2d]
            ),
            "Differences to conv2d, where the tokens are words": table.differences(
                CONV2D_WORDS,
                [g for g in table.groups if g.endswith("_words") and g != CONV2D_WORDS],
            ),
            "Clean and noisy": table.rates_by_set(),
            "Parameters": table.parameters(),
            "Cost": table.costs(),
        }
    elif what == "rates":
        parts = {"Word error rates": table.error_rates(), "Cost": table.costs()}
    elif what == "fast":
        parts = {
            "Word error rates": table.error_rates(),
            "Differences to separately trained models": table.differences(
                "separate", [f"{name}_fast" for name in OF_THE_PAPER]
            ),
            "Differences to the same layers, trained separately": (
                of_methods(table, "{}_alone_fast", "{}_fast")
            ),
            "Differences to the defaults": of_methods(table, "{}", "{}_fast"),
            "Cost": table.costs(),
        }
    elif what == "rivals":
        parts = {
            "Word error rates": table.error_rates(),
            "Differences to separately trained models": table.differences("separate"),
            "Differences to the supernet (above 0: more errors than it)": (
                table.differences(STK)
            ),
            "Differences to it at equal MACs (between two of its sizes a straight line, which is "
            "up to 5% too high)": at_equal_macs(table, STK),
            "Clean and noisy": table.rates_by_set(),
            "MACs": macs(table),
            "Parameters": table.parameters(),
            "Cost": table.costs(),
        }
    elif what == "shrink":
        parts = {
            "Word error rates": table.error_rates(),
            "Differences to models trained alone": table.differences("separate"),
            "Differences to a supernet from scratch": table.differences("simple_top_k"),
            "Differences to it at equal MACs": at_equal_macs(table, "simple_top_k"),
            "Differences to random layers": table.differences("random_20"),
            "Differences to layers by the angle": table.differences("angle_20", ["shrunk_20"]),
            "Cost": table.costs(),
        }
    else:
        parts = {
            "Word error rates": table.error_rates(),
            "Differences to separately trained models": table.differences("separate"),
            "Differences to early exits (their full size is one alone, with exits)": (
                table.differences("aux_loss", [*OF_THE_PAPER, "random"])
            ),
            "Differences to the settings as published": of_methods(table, "{}_published", "{}"),
            "Differences to all weights shared": of_methods(table, "{}_shared", "{}"),
            "Differences to random layers": table.differences("random"),
            "Differences to the same layers, trained separately": (
                of_methods(table, "{}_alone", "{}")
            ),
            "Clean and noisy": table.rates_by_set(),
            "Parameters": table.parameters(),
            "Kept layers": "\n".join(map(table.kept_layers, OF_THE_PAPER)),
            "Cost": table.costs(),
        }  # fmt: skip
    return "".join(f"\n## {title}\n\n{part}" for title, part in parts.items() if part)
