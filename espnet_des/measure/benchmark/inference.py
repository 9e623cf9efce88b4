"""What a size costs at inference: beside stock ESPnet, and as int8 ONNX.

One CPU thread, one utterance, features in, CTC log-probabilities out. Weights
are random: they do not change the time.
"""

import json
import random
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
from espnet_des.measure.benchmark.rounds import measure, ratio
from espnet_des.nn.encoders import SubnetConformerEncoder
from espnet_des.nn.residual import Branch, add_branch
from espnet_des.utils.files import write_atomically
from espnet_des.utils.machine import describe
from espnet_des.utils.partial import partial_folder

FEATURES, FRAMES_PER_SECOND, VOCABULARY = 80, 100, 500
# Keys of encoder_conf by the name that readers see.
FRONT_ENDS: dict[str, dict[str, Any]] = {
    "conv2d": {"input_layer": "conv2d"},
    "conv2d of 128 channels": {"input_layer": "conv2d", "subsampling_channels": 128},
    "vgg": {"input_layer": "vgg"},
    "dw_striding": {"input_layer": "dw_striding"},
    "dw_striding by 8": {"input_layer": "dw_striding", "subsampling_factor": 8},
}


class Row(NamedTuple):
    """One line of the table: what, how long, and how much of something else."""

    name: str
    seconds: float
    front_end_seconds: float
    ratio: float
    to: str


def conformer(num_blocks: int, dim: int) -> dict:
    """``encoder_conf`` of the Conformer that is measured."""
    return {
        "output_size": dim, "linear_units": 4 * dim, "attention_heads": max(1, dim // 64),
        "num_blocks": num_blocks, "cnn_module_kernel": 31, "macaron_style": True,
        "rel_pos_type": "latest",
    }  # fmt: skip


def kept_sets(num_blocks: int) -> dict[str, list[int]]:
    """A third of the layers, chosen in several ways; 4 layers in a block."""
    layers = list(range(4 * num_blocks))
    size = len(layers) // 3
    # What the method tends to keep: convolutions, a few attentions, late feed-forwards.
    order = layers[2::4] + layers[1::4][:2] + layers[3::4][::-1] + layers[1::4][2:]
    return {
        "whole blocks": layers[:size],
        "as learned": sorted(order[:size]),
        "random": sorted(random.Random(0).sample(layers, size)),
    }


class Bench:
    """The models, and functions that run them once."""

    def __init__(self, num_blocks: int, dim: int, seconds: float, folder: Path):
        self.num_blocks, self.dim, self.folder = num_blocks, dim, folder
        self.x = torch.randn(1, int(seconds * FRAMES_PER_SECOND), FEATURES)
        self.lengths = torch.tensor([self.x.size(1)])
        self.ctc = CTC(VOCABULARY, dim).eval()
        self.runs: dict[str, Callable[[], object]] = {}

    def stock(self, num_blocks: int) -> str:
        encoder = ConformerEncoder(FEATURES, **conformer(num_blocks, self.dim)).eval()
        return self._add(f"stock ESPnet, {num_blocks} blocks, conv2d", encoder)

    def subnet(self, kept: Sequence[int], **conf) -> SubnetConformerEncoder:
        conf = conformer(self.num_blocks, self.dim) | conf
        return SubnetConformerEncoder(FEATURES, kept_layers=list(kept), **conf).eval()

    def whole_blocks(self, num_blocks: int) -> str:
        encoder = self.subnet(range(4 * num_blocks), conv_norm="batch_norm")
        return self._add(f"subnet, {num_blocks} whole blocks, conv2d, batch_norm", encoder)

    def _add(self, name: str, encoder: torch.nn.Module) -> str:
        self.runs[name] = lambda: self.ctc.log_softmax(encoder(self.x, self.lengths)[0])
        return name

    def front_end(self) -> str:
        encoder = self.subnet([0])
        self.runs["front end, conv2d"] = lambda: encoder.subsample(self.x, self.lengths)
        return "front end, conv2d"

    def set_and_its_parts(self, name: str, kept: Sequence[int]):
        """A kept set, and each of its layers by itself."""
        encoder = self.subnet(kept)
        whole = self._add(f"subnet, {len(kept)} layers, {name}, conv2d", encoder)
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

    def onnx(self, name: str, kept: Sequence[int], front_end: str, int8: bool) -> str:
        model = SimpleNamespace(
            encoder=self.subnet(kept, **FRONT_ENDS[front_end]), ctc=self.ctc,
            normalize=None, preencoder=None, postencoder=None,
        )  # fmt: skip
        name = f"ONNX {'int8' if int8 else 'float32'}, {name}, {front_end}"
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
    rounds: int = 15,
) -> list[Row]:  # fmt: skip
    """Measure, print, and write ``benchmark_inference.md`` and ``.json``.

    Args:
        output_dir: where the two files go.
        num_blocks: of the full encoder, a multiple of 3.
        dim: of the encoder.
        seconds: of audio.
        rounds: every model runs once in each.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with partial_folder(output_dir, "benchmark.models") as folder, torch.inference_mode():
            bench = Bench(num_blocks, dim, seconds, folder)
            rows = _measure(bench, rounds)
    finally:
        torch.set_num_threads(threads)
    setting = (
        f"{describe()}, 1 thread, CPU time; {num_blocks} blocks, d={dim}, {seconds:g} s of "
        f"audio, batch 1, {VOCABULARY} tokens; medians of {rounds} paired rounds"
    )
    text = table(setting, rows)
    content = {"setting": setting, "rows": [row._asdict() for row in rows]}
    write_atomically(output_dir / "benchmark_inference.md", lambda p: p.write_text(text))
    write_atomically(
        output_dir / "benchmark_inference.json",
        lambda p: p.write_text(json.dumps(content, indent=2) + "\n"),
    )
    print(text)
    return rows


def _measure(bench: Bench, rounds: int) -> list[Row]:
    third, sets = bench.num_blocks // 3, kept_sets(bench.num_blocks)
    full, front = bench.stock(bench.num_blocks), bench.front_end()
    pairs = [(full, full, front)]
    for blocks in (third, 2 * third):
        stock = bench.stock(blocks)
        pairs += [(stock, full, front), (bench.whole_blocks(blocks), stock, front)]
    sums = [bench.set_and_its_parts(name, kept) for name, kept in sets.items()]
    for front_end in FRONT_ENDS:
        alone = bench.onnx("front end and norms only", [], front_end, int8=True)
        for name in ("whole blocks", "as learned"):
            title = f"{len(sets[name])} layers, {name}"
            if name == "whole blocks":
                alone32 = bench.onnx("front end and norms only", [], front_end, int8=False)
                pairs.append((bench.onnx(title, sets[name], front_end, False), full, alone32))
            pairs.append((bench.onnx(title, sets[name], front_end, True), full, alone))
    times = measure(bench.runs, rounds)
    median = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    rows = []
    for name, base, front_end in pairs:
        rows.append(Row(name, median[name], median[front_end],
                        ratio(times[name], times[base]), base))  # fmt: skip
    for whole, parts in sums:
        total = [sum(values) for values in zip(*(times[part] for part in parts))]
        rows.append(Row(whole, median[whole], median[front],
                        ratio(times[whole], total), "the sum of its layers"))  # fmt: skip
    return rows


def table(setting: str, rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "# Cost at inference", "", setting + ".",
        "The front end's share of an ONNX model is that of an export without layers.", "",
        "| model | ms | front end | time relative to | ratio | times faster |",
        "|---|---:|---:|---|---:|---:|",
    ]  # fmt: skip
    for row in rows:
        share = row.front_end_seconds / row.seconds
        lines.append(
            f"| {row.name} | {1000 * row.seconds:.1f} | {share:.0%} | {row.to} "
            f"| {row.ratio:.3f} | {1 / row.ratio:.2f} |"
        )
    return "\n".join(lines) + "\n"
