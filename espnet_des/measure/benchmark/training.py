"""What an update of a supernet costs beside a plain step of its full size.

By count (see :mod:`espnet_des.measure.benchmark.cost` for F, L and f), with N layers, k of them
in the small pass of stage 1, s in the smallest and m in the middle size:

    separate trainings             sum over the sizes of F + L * size / N
    as published, stage 1          F + L * 2
    as published, stage 2          F + L * (1 + s / N + m / N)
    Simple-Top-k, stage 1          F + L * (1 + r * (f + (1 - f) * k / N))
    Iterative-Zero-Out, stage 1    F + L * (1 + r)
    stage 2                        F + L * ((1 - p2) * (N - s) / N + (1 + r) * s / N + q * m / N)

where the smaller passes run on shares of the utterances: r is ``rows_stage_1`` in stage 1 and
``rows_small`` in stage 2, and q is ``rows_middle``. The output layers and losses of exits, and
those of the sizes, are not counted.
"""

import gc
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from espnet_des.measure.benchmark.cost import (
    Case,
    Meter,
    Row,
    Shares,
    describe_with,
    is_cuda,
)
from espnet_des.measure.benchmark.rounds import one_thread
from espnet_des.measure.benchmark.steps import FEATURES, VOCABULARY, Bench, Setting
from espnet_des.measure.benchmark.written import write_report

INPUT_LAYERS = ("conv2d", "vgg")
DROP_RATE = 0.3  # p2, as published
Targets = dict[str, tuple[float | None, float | None]]  # of cost and of peak memory, by row
# By front end, for the default setting on a CPU.
OF_DEFAULTS: dict[str, Targets] = {
    "conv2d": {"1_top_k": (1.45, 1.02), "1_top_k_anneal": (1.58, None), "2": (1.60, 0.87)},
    "vgg": {"1_top_k": (1.52, 1.02), "1_top_k_anneal": (1.66, None), "2": (1.68, 0.90)},
}
TARGETS: dict[str | None, dict[str, Targets]] = {  # by preset
    None: OF_DEFAULTS,
    "published": OF_DEFAULTS,
    "fast": {
        "conv2d": {"run_top_k": (1.34, None), "run_zero_out": (1.34, None), "2": (None, 0.90)},
        "vgg": {"run_top_k": (1.38, None), "run_zero_out": (1.38, None), "2": (None, 0.90)},
    },
}


def cases(bench: Bench) -> list[Case]:
    """The rows of a setting."""
    sizes, full = bench.setting.sizes, bench.num_layers
    removed = bench.schedule.zeroed
    kept = [full - r for r in removed]
    whole, rows = (1.0, 1.0), bench.options.rows_stage_1
    anneal = f"{len(kept)} iterations, k = {kept[0]} to {kept[-1]}"
    return [
        Case("plain", "plain step of the full size", [bench.plain_step(full)],
             lambda shares: shares.by_count(whole)),
        Case("separate", f"separate trainings of {_list(sizes)} layers, together",
             [bench.plain_step(size) for size in sizes],
             lambda shares: sum(shares.by_count((s / full, s / full)) for s in sizes),
             is_sum=True),
        Case("published_1_top_k", f"as published: Simple-Top-k, stage 1, k = {sizes[0]}",
             [bench.stage1("simple_top_k", -1, published=True)],
             lambda shares: shares.by_count(whole, whole)),
        Case("published_1_zero_out", "as published: Iterative-Zero-Out, stage 1",
             [bench.stage1("iterative_zero_out", -1, published=True)],
             lambda shares: shares.by_count(whole, whole)),
        stage2(bench, DROP_RATE, published=True),
        stage1_smallest(bench),
        Case("1_top_k_anneal", f"Simple-Top-k, stage 1, mean over {anneal}",
             [bench.stage1("simple_top_k", i) for i in range(len(kept))],
             lambda shares: statistics.mean(
                 shares.by_count(whole, (rows, rows * k / full)) for k in kept
             )),
        Case("1_zero_out", "Iterative-Zero-Out, stage 1",
             [bench.stage1("iterative_zero_out", -1)],
             lambda shares: shares.by_count(whole, (rows, rows))),
        stage2(bench, DROP_RATE),
        stage2(bench, 0.0),
    ]  # fmt: skip


def stage1_smallest(bench: Bench) -> Case:
    """The last iteration of Simple-Top-k."""
    size = bench.setting.sizes[0]
    share, rows = size / bench.num_layers, bench.options.rows_stage_1
    return Case(
        "1_top_k", f"Simple-Top-k, stage 1, k = {size}", [bench.stage1("simple_top_k", -1)],
        lambda shares: shares.by_count((1.0, 1.0), (rows, rows * share)),
    )  # fmt: skip


def stage2(bench: Bench, drop_rate: float, published: bool = False) -> Case:
    """Stage 2: the mean over the middle sizes, of which an update draws one."""
    sizes, full = bench.setting.sizes, bench.num_layers
    small, middles = sizes[0] / full, sizes[1:-1]
    options = bench.options
    of_small, of_middle = options.rows_small, options.rows_middle
    if published:
        of_small = of_middle = 1.0
    parts = [1.0 if published else (1 - drop_rate) * (1 - small) + small, of_small * small]
    if middles:
        parts.append(of_middle * statistics.mean(middles) / full)
    return Case(
        "published_" * published + ("2" if drop_rate else "2_without_depth"),
        "as published: " * published + f"either method, stage 2, p2 = {drop_rate:g}",
        [bench.stage2(drop_rate, published, middle) for middle in middles or [None]],
        lambda shares: shares.by_count(*((part, part) for part in parts)),
        is_random=drop_rate > 0.0,
    )


def of_a_run(bench: Bench, rows: list[Row]) -> list[Row]:
    """A mean update of a run, of both methods: each stage by its share of the updates."""
    share = bench.options.selection_share or bench.options.DEFAULT_SHARE
    of_key, found = {row.key: row for row in rows}, []
    for key, title, stage_1 in (
        ("run_top_k", "Simple-Top-k", "1_top_k_anneal"),
        ("run_zero_out", "Iterative-Zero-Out", "1_zero_out"),
    ):
        one, two = of_key[stage_1], of_key["2"]
        mean = {
            name: share * getattr(one, name) + (1 - share) * getattr(two, name)
            for name in ("seconds", "ratio", "lowest", "highest", "by_count")
        }
        name = f"{title}, a run: {share:.0%} of its updates in stage 1, p2 = {DROP_RATE:g}"
        larger = max(one, two, key=lambda row: row.memory)
        found.append(larger._replace(key=key, name=name, **mean))
    return found


def benchmark_training(
    output_dir: Path, input_layers: Sequence[str] = INPUT_LAYERS, rounds: int = 7, **setting
) -> dict[str, list[Row]]:
    """Measure, print, and write ``benchmark_training.md`` and ``.json``.

    Args:
        output_dir: where the two files go.
        input_layers: front ends.
        rounds: every row runs once in each.
        **setting: of :class:`~espnet_des.measure.benchmark.steps.Setting`.

    Returns:
        The rows of every front end and precision.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    base = Setting(**setting)
    base = base._replace(sizes=tuple(base.sizes))
    precisions = ["float32"] + ["bfloat16"] * is_cuda(base.device)
    tables, shares = {}, {}
    for precision in precisions:
        for input_layer in input_layers:
            name = f"{input_layer}, {precision}"
            now = base._replace(input_layer=input_layer, precision=precision)
            for shares[name], tables[name] in measure_setting(now, rounds):
                # After each row: what was measured is there if the rest is not.
                text = report(base, rounds, tables, shares)
                content = {
                    "machine": describe_with(base.device), "threads": 1, "rounds": rounds,
                    "setting": base._asdict() | {"input_layer": input_layers,
                                                 "precision": precisions},
                    "shares": {key: value._asdict() for key, value in shares.items()},
                    "rows": {key: [r._asdict() for r in rows] for key, rows in tables.items()},
                    "open": open_points(base),
                }  # fmt: skip
                write_report(output_dir, "benchmark_training", text, content)
    print(text)
    return tables


def measure_setting(setting: Setting, rounds: int) -> Iterator[tuple[Shares, list[Row]]]:
    """The shares and the rows so far, after each row."""
    gc.collect()  # the models of the last setting
    with one_thread():
        meter = Meter(Bench(setting), rounds)
        rows = []
        for case in cases(meter.bench):
            rows.append(meter.row(case))
            yield meter.shares, rows
        yield meter.shares, rows + of_a_run(meter.bench, rows)


def report(
    base: Setting, rounds: int, tables: dict[str, list[Row]], shares: dict[str, Shares]
) -> str:
    """Markdown."""
    text = describe_run(base, rounds)
    for name, rows in tables.items():
        text += f"\n## {name}\n\n{table(rows, targets_of(base, name))}\n"
        text += describe_shares(shares[name])
    return text + "".join(f"\n{point}\n" for point in open_points(base))


def open_points(setting: Setting) -> list[str]:
    """What this run does not show."""
    if is_cuda(setting.device):
        return []
    return [
        "On a GPU (float32, bfloat16 autocast): not measured (open); `--device cuda` does it."
    ]


def targets_of(setting: Setting, name: str) -> Targets:
    """Cost and memory asked for, by key of the row; none for another setting."""
    is_default = setting == Setting(preset=setting.preset)
    return TARGETS.get(setting.preset, {}).get(name.split(",")[0], {}) if is_default else {}


def describe_run(setting: Setting, rounds: int) -> str:
    """Heading, machine, setting, and how to read the columns."""
    on_gpu = is_cuda(setting.device)
    clock = "time until the GPU is done" if on_gpu else "CPU time of the process"
    memory = (
        "all that the step allocates on the GPU, gradients included" if on_gpu
        else "the tensors saved for backward, each once, without parameters"
    )  # fmt: skip
    return f"""# Cost of an update in training

{describe_with(setting.device)}, 1 thread, {clock}; {setting.num_blocks} blocks, \
d={setting.dim}, sizes {_list(setting.sizes)}, dropout 0.1; {setting.utterances} utterances \
of {setting.seconds:g} s; {FEATURES} features, {setting.labels} labels each of {VOCABULARY}; \
random weights, inputs and kept layers (as many of each module), seed {setting.seed}; \
no optimizer step; options: {setting.preset or "the defaults"}.
Ratios are medians of {rounds} rounds, in each of which a plain step runs beside the row. \
Memory is the peak of {memory}, in that of the plain step; where stochastic depth is drawn, \
the mean of {rounds} draws. RSS: by how much the process grows at most, gradients included.
"""


def _list(sizes: Sequence[int]) -> str:
    return "/".join(map(str, sizes))


def describe_shares(shares: Shares) -> str:
    return (
        f"Of a plain step the front end is F = {shares.front_end:.3f}; of the rest (L) the "
        f"forward is f = {shares.forward:.3f}. By count: what a step would take if the front "
        "end and the layers that it must run took time, and nothing else.\n"
    )


def table(rows: list[Row], targets: Targets) -> str:
    """Markdown."""

    def bound(key: str, which: int) -> str:
        value = targets.get(key, (None, None))[which]
        return "-" if value is None else f"<= {value:.2f}"

    lines = [
        "| step | ms | plain steps | lowest - highest | target | by count | memory | target "
        "| RSS, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {1000 * row.seconds:.0f} | {row.ratio:.2f} "
            f"| {row.lowest:.2f} - {row.highest:.2f} | {bound(row.key, 0)} "
            f"| {row.by_count:.2f} | {row.memory:.2f} | {bound(row.key, 1)} "
            f"| {'-' if row.rss_bytes is None else round(row.rss_bytes / 1e6)} |"
        )
    return "\n".join(lines) + "\n"
