"""What a size costs at inference: beside stock ESPnet, in PyTorch and in ONNX.

One CPU thread, one utterance, features in, CTC log-probabilities out. Weights
are random: they do not change the time.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from espnet2.asr.ctc import CTC
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet_des.deploy.onnx.graph import CTCGraph, export, run, session
from espnet_des.deploy.onnx.int8 import quantize
from espnet_des.errors import ConfigError
from espnet_des.measure.benchmark.neighbours import Neighbours
from espnet_des.measure.benchmark.rounds import measure, one_thread, ratio
from espnet_des.measure.benchmark.written import write_report
from espnet_des.nn.encoders import SubnetConformerEncoder
from espnet_des.nn.residual import Branch, add_branch
from espnet_des.utils.machine import describe
from espnet_des.utils.partial import partial_folder

FEATURES, FRAMES_PER_SECOND, VOCABULARY = 80, 100, 500
# Keys of encoder_conf by the name that readers see.
FRONT_ENDS: dict[str, dict[str, Any]] = {
    "conv2d": {"input_layer": "conv2d"},
    "conv2d of 128 channels": {"input_layer": "conv2d", "subsampling_channels": 128},
    "vgg": {"input_layer": "vgg"},
    "dw_striding": {"input_layer": "dw_striding"},
    "dw_striding of 128 channels": {"input_layer": "dw_striding", "subsampling_channels": 128},
    # A quarter of d=384, which spoken words were measured with, too (compare/front_ends.py).
    "dw_striding of 96 channels": {"input_layer": "dw_striding", "subsampling_channels": 96},
    "dw_striding by 8": {"input_layer": "dw_striding", "subsampling_factor": 8},
    "dw_striding by 8, upsampled by 2": {
        "input_layer": "dw_striding",
        "subsampling_factor": 8,
        "upsampling_factor": 2,
    },
}
LAYERS_OF_A_BLOCK = 4
# A third of 24 layers, as Simple-Top-k chose them on spoken words with three seeds
# (egs2/compare_words/asr1/results/compare.json).
CHOSEN_BLOCKS = 6
CHOSEN = (
    (5, 6, 10, 12, 14, 15, 18, 21),
    (6, 10, 12, 13, 15, 18, 21, 22),
    (6, 7, 10, 12, 13, 14, 18, 21),
)


class Model(NamedTuple):
    """What one line of the table is about.

    Attributes:
        title: what readers see.
        runs: names of what is timed; of the sets of several trainings their mean counts.
        front_end: what of it is the front end, or all but the layers.
    """

    title: str
    runs: list[str]
    front_end: str


class Ratio(NamedTuple):
    """How many times as fast: median, and the quantiles of 10% and 90% over the rounds."""

    median: float
    low: float
    high: float


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        title: of the model.
        seconds: medians over the rounds, of all, and of the front end.
        front_end_seconds: as named.
        pytorch: to the full stock model in PyTorch.
        onnx: to the full stock model through the same export, in int8.
        busy: as ``pytorch``, beside busy neighbours; None where there were none.
        busy_onnx: as ``onnx``, likewise.
    """

    title: str
    seconds: float
    front_end_seconds: float
    pytorch: Ratio
    onnx: Ratio
    busy: Ratio | None
    busy_onnx: Ratio | None


class Check(NamedTuple):
    """The time of something relative to what it should take as long as."""

    name: str
    ratio: float
    to: str


def conformer(num_blocks: int, dim: int) -> dict:
    """``encoder_conf`` of the Conformer that is measured."""
    return {
        "output_size": dim, "linear_units": 4 * dim, "attention_heads": max(1, dim // 64),
        "num_blocks": num_blocks, "cnn_module_kernel": 31, "macaron_style": True,
        "rel_pos_type": "latest",
    }  # fmt: skip


def chosen_sets(num_blocks: int) -> list[list[int]]:
    """A third of the layers, as trainings chose them; each layer stands for those beside it."""
    times = num_blocks // CHOSEN_BLOCKS
    return [
        sorted(
            LAYERS_OF_A_BLOCK * (block * times + i) + kind
            for block, kind in (divmod(layer, LAYERS_OF_A_BLOCK) for layer in chosen)
            for i in range(times)
        )
        for chosen in CHOSEN
    ]


class Bench:
    """The models, and functions that run them once."""

    def __init__(self, num_blocks: int, dim: int, seconds: float, folder: Path):
        self.num_blocks, self.dim, self.folder = num_blocks, dim, folder
        self.x = torch.randn(1, int(seconds * FRAMES_PER_SECOND), FEATURES)
        self.lengths = torch.tensor([self.x.size(1)])
        self.ctc = CTC(VOCABULARY, dim).eval()
        self.runs: dict[str, Callable[[], object]] = {}

    def stock(self, num_blocks: int) -> str:
        name = f"stock ESPnet, {num_blocks} blocks, conv2d"
        if name in self.runs:
            return name
        conf = conformer(num_blocks, self.dim)
        return self.add(name, ConformerEncoder(FEATURES, **conf).eval())

    def subnet(self, kept: Sequence[int], **conf) -> SubnetConformerEncoder:
        conf = conformer(self.num_blocks, self.dim) | conf
        return SubnetConformerEncoder(FEATURES, kept_layers=list(kept), **conf).eval()

    def whole_blocks(self, num_blocks: int) -> str:
        encoder = self.subnet(range(LAYERS_OF_A_BLOCK * num_blocks), conv_norm="batch_norm")
        return self.add(f"subnet, {num_blocks} whole blocks, conv2d, batch_norm", encoder)

    def add(self, name: str, encoder: torch.nn.Module) -> str:
        self.runs[name] = lambda: self.ctc.log_softmax(encoder(self.x, self.lengths)[0])
        return name

    def front_end(self) -> str:
        encoder = self.subnet([0])
        self.runs["front end, conv2d"] = lambda: encoder.subsample(self.x, self.lengths)
        return "front end, conv2d"

    def set_and_its_parts(self, name: str, kept: Sequence[int]):
        """A kept set, and each of its layers by itself."""
        encoder = self.subnet(kept)
        whole = self.add(f"subnet, {len(kept)} layers, {name}, conv2d", encoder)
        front = encoder.subsample(self.x, self.lengths)
        x, pos_emb, mask = front
        parts: dict[str, Callable[[], object]] = {
            "front end": lambda: encoder.subsample(self.x, self.lengths)
        }
        for q, layer in enumerate(encoder.layers):
            block = encoder.encoders[layer.block]
            branch = Branch(encoder.block_type, block, layer.kind, x, pos_emb, mask)
            parts[f"layer {q}"] = partial(add_branch, x, branch)
        for number, block in enumerate(encoder.encoders):
            parts[f"norm {number}"] = partial(block.norm_final, x)
        parts["last norm"] = lambda: encoder.after_norm(x)
        parts["output layer"] = lambda: self.ctc.log_softmax(x)
        names = [f"{whole}: {part}" for part in parts]
        self.runs.update(zip(names, parts.values()))
        return whole, names

    def onnx(self, kept: Sequence[int], front_end: str, int8: bool, **conf) -> str:
        """An export of some layers, possibly none: then the front end and the last norms."""
        name = f"ONNX {'int8' if int8 else 'float32'}, {front_end}, layers {list(kept)}"
        if name in self.runs:
            return name
        model = SimpleNamespace(
            encoder=self.subnet(kept, **FRONT_ENDS[front_end], **conf), ctc=self.ctc,
            normalize=None, preencoder=None, postencoder=None,
        )  # fmt: skip
        path = self.folder / "float.onnx"
        export(CTCGraph(model, "features", int8), path, {})
        if int8:
            path = self.folder / "int8.onnx"
            quantize(self.folder / "float.onnx", path)
        with_one_thread = session(path, threads=1)
        self.runs[name] = lambda: run(with_one_thread, self.x, self.lengths)
        return name


def benchmark_inference(
    output_dir: Path, num_blocks: int = 12, dim: int = 384, seconds: float = 10.0,
    rounds: int = 15, neighbours: int = 0, front_ends: Sequence[str] = tuple(FRONT_ENDS),
) -> tuple[list[Row], list[Check]]:  # fmt: skip
    """Measure, print, and write ``benchmark_inference.md`` and ``.json``.

    Args:
        output_dir: where the two files go.
        num_blocks: of the full encoder, a multiple of 6.
        dim: of the encoder.
        seconds: of audio.
        rounds: every model runs once in each.
        neighbours: so many programs keep processors busy in as many further rounds.
        front_ends: names, of ``FRONT_ENDS``.

    Raises:
        ConfigError: where the number of blocks does not fit.
    """
    if num_blocks < 1 or num_blocks % CHOSEN_BLOCKS:
        raise ConfigError(
            f"num_blocks: {num_blocks} must be a multiple of {CHOSEN_BLOCKS}: the layers that "
            f"are timed were chosen among those of {CHOSEN_BLOCKS} blocks"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with (
        partial_folder(output_dir, "benchmark.models") as folder,
        one_thread(),
        torch.inference_mode(),
    ):
        bench = Bench(num_blocks, dim, seconds, folder)
        rows, checks = _measure(bench, rounds, neighbours, front_ends)
    setting = (
        f"{describe()}, 1 thread, CPU time; {num_blocks} blocks, d={dim}, {seconds:g} s of "
        f"audio, batch 1, {VOCABULARY} tokens; medians of {rounds} paired rounds"
    )
    text = table(setting, rows, checks, neighbours)
    content = {
        "setting": setting, "neighbours": neighbours, "rows": [as_dict(row) for row in rows],
        "checks": [check._asdict() for check in checks],
    }  # fmt: skip
    write_report(output_dir, "benchmark_inference", text, content)
    print(text)
    return rows, checks


def models(bench: Bench, front_ends: Sequence[str]) -> tuple[list[Model], str, str]:
    """What is in the table, and what it is compared with: stock in PyTorch, and in ONNX."""
    third, full = bench.num_blocks // 3, bench.num_blocks
    front, norm = bench.front_end(), {"conv_norm": "batch_norm"}
    found = []
    for blocks in (full, third):
        found.append(Model(f"stock, {blocks} blocks, PyTorch, conv2d", [bench.stock(blocks)],
                           front))  # fmt: skip
        for int8 in (False, True):
            alone = bench.onnx([], "conv2d", int8)
            # Exactly ESPnet's: the same modules, in its order, with its norms.
            layers = range(LAYERS_OF_A_BLOCK * blocks)
            stock = bench.onnx(layers, "conv2d", int8, num_blocks=blocks, **norm)
            title = f"stock, {blocks} blocks, ONNX {'int8' if int8 else 'float32'}, conv2d"
            found.append(Model(title, [stock], alone))
    base, base_onnx = found[0].runs[0], found[2].runs[0]
    sets = chosen_sets(bench.num_blocks)
    size = f"size {len(sets[0])}"
    found.append(Model(f"{size}, PyTorch, conv2d", [
        bench.add(f"{size}, {kept}", bench.subnet(kept)) for kept in sets], front))  # fmt: skip
    for front_end in front_ends:
        for int8 in (False, True):
            alone = bench.onnx([], front_end, int8)
            runs = [bench.onnx(kept, front_end, int8) for kept in sets]
            title = f"{size}, ONNX {'int8' if int8 else 'float32'}, {front_end}"
            found.append(Model(title, runs, alone))
    return found, base, base_onnx


def _measure(
    bench: Bench, rounds: int, neighbours: int, front_ends: Sequence[str]
) -> tuple[list[Row], list[Check]]:
    found, *bases = models(bench, front_ends)
    blocks, third = bench.num_blocks, bench.num_blocks // 3
    whole = [(bench.whole_blocks(n), bench.stock(n)) for n in (third, 2 * third)]
    layers = LAYERS_OF_A_BLOCK * blocks
    some = {
        "whole blocks": list(range(layers // 3)),
        "as chosen": chosen_sets(blocks)[0],
        "random": sorted(random.Random(0).sample(range(layers), layers // 3)),
    }
    sums = [bench.set_and_its_parts(name, kept) for name, kept in some.items()]
    idle = measure(bench.runs, rounds)
    busy = {}
    if neighbours:
        timed = {name: bench.runs[name] for model in found for name in model.runs}
        with Neighbours(neighbours) as others, others.busy():
            busy = measure(timed, rounds)
    rows = []
    for model in found:
        front = statistics.median(idle[model.front_end])
        mine = _mean(idle, model.runs)
        pytorch, onnx = (faster(mine, idle[base]) for base in bases)
        row = Row(model.title, statistics.median(mine), front, pytorch, onnx, None, None)
        if busy:
            mine = _mean(busy, model.runs)
            pytorch, onnx = (faster(mine, busy[base]) for base in bases)
            row = row._replace(busy=pytorch, busy_onnx=onnx)
        rows.append(row)
    checks = [Check(mine, ratio(idle[mine], idle[stock]), stock) for mine, stock in whole]
    for name, parts in sums:
        total = [sum(values) for values in zip(*(idle[part] for part in parts))]
        checks.append(Check(name, ratio(idle[name], total), "the sum of its layers"))
    return rows, checks


def _mean(times: dict[str, list[float]], names: list[str]) -> list[float]:
    return [statistics.mean(values) for values in zip(*(times[name] for name in names))]


def faster(times: list[float], base: list[float]) -> Ratio:
    """Of the ratios within a round."""
    ratios = torch.tensor([b / a for a, b in zip(times, base)], dtype=torch.float64)
    return Ratio(*ratios.quantile(torch.tensor([0.5, 0.1, 0.9]).double()).tolist())


def as_dict(row: Row) -> dict:
    return {
        key: value._asdict() if isinstance(value, Ratio) else value
        for key, value in row._asdict().items()
    }


def table(setting: str, rows: list[Row], checks: list[Check], neighbours: int) -> str:
    """Markdown."""
    head = ["model", "ms", "front end", "layers", "to stock, PyTorch", "to stock, ONNX int8"]
    if neighbours:
        head += [f"{name}, busy" for name in head[-2:]]
    lines = [
        "# Cost at inference", "", setting + ".",
        "The front end of an ONNX model is an export without layers, with what stands behind "
        "these. A size is the mean of three sets of layers, which trainings chose. How many "
        "times as fast: median, and 10% to 90% of the rounds"
        + (f"; busy is beside {neighbours} other programs." if neighbours else "."), "",
        "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1),
    ]  # fmt: skip
    for row in rows:
        front, rest = row.front_end_seconds, row.seconds - row.front_end_seconds
        ratios = [r for r in (row.pytorch, row.onnx, row.busy, row.busy_onnx) if r is not None]
        cells = [f"{1000 * t:.1f}" for t in (row.seconds, front, rest)]
        cells += [f"{r.median:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in ratios]
        lines.append("| " + " | ".join([row.title, *cells]) + " |")
    lines += ["", "| time of | relative to | ratio |", "|---|---|---:|"]
    lines += [f"| {check.name} | {check.to} | {check.ratio:.3f} |" for check in checks]
    return "\n".join(lines) + "\n"
