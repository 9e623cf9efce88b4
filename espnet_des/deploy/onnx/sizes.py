"""Several sizes as ONNX files that share their weights: one file of weights, and a small graph
each, which points into it (ONNX's external data)."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy
import onnx
import onnx.external_data_helper
import onnx.numpy_helper
import torch

from espnet_des.deploy.onnx.export import Exported, write_onnx
from espnet_des.deploy.onnx.graph import run, session
from espnet_des.errors import ConfigError
from espnet_des.utils.files import sync_file, sync_folder
from espnet_des.utils.markdown import table
from espnet_des.utils.partial import partial_folder

WEIGHTS = "weights.bin"
SMALLEST = 256  # bytes of what is shared; saying where it stands takes a hundred
ALIGNED = 64  # bytes, as onnxruntime wants tensors
MOST = 0.8  # of the smaller sizes' weights: so many stand once, where weights are shared
LOADS = 5  # of which the median is told


class Shared(NamedTuple):
    """One size of a folder.

    Attributes:
        size: number of layers.
        path: its graph, to load.
        graph_bytes: of this file.
        load_ms: to load it, median.
        alone_load_ms: to load it as one file.
        alone: what was measured of this file.
    """

    size: int
    path: Path
    graph_bytes: int
    load_ms: float
    alone_load_ms: float
    alone: Exported


def export_sizes(
    asr_train_config: Path,
    asr_model_file: Path,
    output: Path,
    sizes: Sequence[int],
    source: str = "waveform",
    quantize: str = "none",
    wav_scp: Path | None = None,
    text: Path | None = None,
    runtime: str = "onnxruntime",
) -> list[Shared]:
    """Write a folder of several sizes of a supernet that share their weights.

    Args:
        asr_train_config: of a supernet.
        asr_model_file: its parameters.
        output: the folder, which must not be there: ``weights.bin``, and ``size<n>.onnx``.
        sizes: numbers of layers.
        source, quantize, wav_scp, text: see :func:`write_onnx`, which checks each size.
        runtime: ``onnxruntime`` only.

    Returns:
        What each costs, smallest first.

    Raises:
        ConfigError: where something does not fit, or the outputs differ.
    """
    if output.exists():
        raise ConfigError(
            f"output: {output} is there already; several sizes take a new folder"
        )
    if runtime != "onnxruntime":
        raise ConfigError(
            f"runtime: {runtime}: several sizes are for onnxruntime; give one size"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    wanted = sorted(set(sizes))
    with partial_folder(output.parent, f"{output.name}.export") as partial:
        alone = {size: partial / f"size{size}.onnx" for size in wanted}
        exported = {
            size: write_onnx(
                asr_train_config, asr_model_file, file, size, source, quantize, wav_scp, text
            )
            for size, file in alone.items()
        }
        made = partial / "shared"
        made.mkdir()
        share(alone, made)
        done = [_measured(size, one, made / one.path.name) for size, one in exported.items()]
        for file in made.iterdir():
            sync_file(file)
        made.rename(output)
        sync_folder(output.parent)
    done = [one._replace(path=output / one.path.name) for one in done]
    print("\n".join(told(done, (output / WEIGHTS).stat().st_size)))
    return done


def share(alone: Mapping[int, Path], folder: Path) -> None:
    """Write the graphs of files, by their names, and the weights that they have, each once.

    Args:
        alone: files of sizes, each with all of its weights.
        folder: where to.
    """
    places: dict[bytes, int] = {}
    with (folder / WEIGHTS).open("wb") as weights:
        for file in alone.values():
            model = onnx.load(file)
            for tensor in model.graph.initializer:
                content = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(content) < SMALLEST:
                    continue
                key = hashlib.sha256(content).digest()
                if key not in places:
                    weights.write(bytes(-weights.tell() % ALIGNED))
                    places[key] = weights.tell()
                    weights.write(content)
                _point(tensor, places[key], len(content))
            (folder / file.name).write_bytes(model.SerializeToString())


def _point(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    """Leave of a tensor where its content stands."""
    bare = onnx.TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=b""
    )
    onnx.external_data_helper.set_external_data(bare, WEIGHTS, offset, length)
    bare.ClearField("raw_data")
    tensor.CopyFrom(bare)


def _measured(size: int, exported: Exported, shared: Path) -> Shared:
    """What a size costs in both forms, whose outputs must be the same bits."""
    alone = exported.path
    one, other = session(alone), session(shared)
    shape = [dim if isinstance(dim, int) else 1 for dim in one.get_inputs()[0].shape]
    shape[1] = 20000 if len(shape) == 2 else 200
    given = torch.randn(shape) / 10, torch.tensor([shape[1]])
    if not all(map(numpy.array_equal, run(one, *given), run(other, *given))):
        raise ConfigError(f"size {size}: with shared weights its outputs would differ")
    return Shared(
        size, shared, shared.stat().st_size, _load_ms(shared), _load_ms(alone), exported
    )  # fmt: skip


def _load_ms(file: Path) -> float:
    times = []
    for _ in range(LOADS):
        start = time.perf_counter()
        session(file)
        times.append(time.perf_counter() - start)
    return 1000 * median(times)


def told(done: Sequence[Shared], weights: int) -> list[str]:
    """Lines for the user: a table, and all sizes beside the largest alone."""
    head = ["size", "graph kB", "alone kB", "load ms", "alone load ms", "as PyTorch %"]
    rows = [[*head, *(f"WER % {name}" for name in done[0].alone.wer)]]
    rows += [
        [str(one.size), f"{one.graph_bytes / 1e3:.0f}", f"{one.alone.num_bytes / 1e3:.0f}",
         f"{one.load_ms:.0f}", f"{one.alone_load_ms:.0f}", f"{100 * one.alone.agreement:.2f}",
         *(f"{rate:.2f}" for rate in one.alone.wer.values())]
        for one in done
    ]  # fmt: skip
    total = weights + sum(one.graph_bytes for one in done)
    largest = max(one.alone.num_bytes for one in done)
    separate = sum(one.alone.num_bytes for one in done)
    lines = [
        *table(rows),
        f"{done[0].path.parent}: {total / 1e6:.2f} MB in all, {weights / 1e6:.2f} MB of them "
        f"weights: {total / largest:.2f} times the largest alone, {total / separate:.2f} times "
        "all as single files",
    ]
    # Without the graphs, which of a tiny model are most of its bytes.
    of_sizes = [one.alone.num_bytes - one.graph_bytes for one in done]
    could_be_common = sum(of_sizes) - max(of_sizes)
    if len(done) > 1 and sum(of_sizes) - weights < MOST * could_be_common:
        lines.append(
            "They share little: by default each size has weights of its own, and with components "
            "parts of matrices. Sizes of whole layers of a supernet that is trained with "
            "encoder_conf: own_weights: false share nearly all."
        )
    return lines
