"""What a layer of each kind costs on this machine, in milliseconds, and all else.

Layers of a kind have the same shapes in every block, so the time of a size is that of its
layers by kinds, and of the rest: features, front end, what stands between layers, output
layer and decoding. Some models with other layers left out are timed in turn, and the table
is what explains their times best.
"""

import contextlib
import importlib.util
import json
import platform
import random
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import yaml
from scipy.optimize import nnls

from espnet_des.deploy.extract import config_with, state_with, write_state
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model, read_config
from espnet_des.inference.named_files import with_files_for
from espnet_des.measure.onnx_worker import OnnxWorker
from espnet_des.measure.worker import Worker
from espnet_des.method.layers import Layer, ranges
from espnet_des.method.sizes import Sizes, evenly_spaced
from espnet_des.nn.cost_table import CostTable, about_model
from espnet_des.nn.encoders import SUPERNETS
from espnet_des.nn.model import DESModel
from espnet_des.nn.waveforms import sampling_rate
from espnet_des.utils.files import make_writable, write_atomically
from espnet_des.utils.machine import processor
from espnet_des.utils.partial import partial_folder
from espnet_des.utils.progress import progress

RUNTIMES = ("pytorch", "onnx", "onnx-int8")


class Fit(NamedTuple):
    """Milliseconds that explain some measured times.

    Attributes:
        rest: of all but the layers.
        layers: of a layer of each kind.
        shared: of these, what a layer of several components takes with any of them.
        predicted: what they say for each of the models.
        largest_error: largest relative difference of predicted and measured.
    """

    rest: float
    layers: dict[str, float]
    shared: dict[str, float]
    predicted: list[float]
    largest_error: float


def cost_table(
    asr_train_config: Path,
    asr_model_file: Path,
    output: Path,
    runtime: str = "pytorch",
    seconds: float = 10.0,
    rounds: int = 15,
    check_sizes: int = 0,
) -> dict:
    """Measure, print, and write a table that :func:`read_cost_table` reads.

    One thread, one utterance, from waveform to tokens by CTC best path. Seconds are those
    that the process was computing, which other programs disturb least.

    Args:
        asr_train_config: ``config.yaml`` of a supernet.
        asr_model_file: its parameters, of either stage: only their shapes matter.
        output: the file to write.
        runtime: one of ``RUNTIMES``.
        seconds: length of the audio.
        rounds: timings of each model; medians count. A busy machine needs more of them.
        check_sizes: so many of the supernet's sizes are timed, too, and what the table says of
            them stands beside it. The table is not made of them. They need a model of stage 2.

    Returns:
        What was written: ``about``, ``model``, ``milliseconds`` (``rest`` and ``layers``, by
        kind), ``largest_error``, ``measured`` (of each model its layers and its time) and
        ``sizes`` (the same of those that are checked).

    Raises:
        ConfigError: where an argument is out of range, the output cannot be written, or the
            model is no supernet or cannot be exported; before anything is measured.
    """
    output = Path(output)
    check_arguments(asr_train_config, output, runtime, seconds, rounds, check_sizes)
    model: Any
    model, train_args = load_model(asr_train_config, asr_model_file)
    if model.ctc is None:
        raise ConfigError(
            "model_conf: ctc_weight: 0.0 leaves the model without the CTC output layer that "
            "is timed; train with a weight above 0"
        )
    rate, units = sampling_rate(train_args), model.encoder.units
    sets, checked = kept_sets(units), sets_of_sizes(model, check_sizes)
    steps = (len(sets) + len(checked)) * (2 + rounds)
    with partial_folder(output.parent, f"{output.name}.models") as folder:
        with progress(total=steps, desc="measured", unit="step") as bar:
            saved = []
            for number, kept in enumerate([*sets, *checked.values()]):
                part = folder / str(number)
                saved.append(save(model, asr_train_config, kept, part, runtime))
                bar.update()
            times = measure(saved, seconds, rate, rounds, bar)
    medians = [1000 * seconds_of_one for seconds_of_one in paired_medians(times)]
    fitted = fit(units, sets, medians[: len(sets)])
    found = CostTable(output, seconds, about_model(model), fitted.rest, fitted.layers,
                      fitted.shared, runtime)  # fmt: skip
    table = {
        "about": about(runtime, seconds, rounds),
        "model": found.model,
        "milliseconds": {
            "rest": fitted.rest,
            "layers": fitted.layers,
            "shared": fitted.shared,
        },
        "largest_error": fitted.largest_error,
        "measured": [
            {"kept": kept, "ms": ms, "predicted_ms": predicted, "times": own}
            for kept, ms, predicted, own in zip(sets, medians, fitted.predicted, times)
        ],
        "sizes": [
            {"size": size, "kept": kept, "ms": ms, "times": own,
             "predicted_ms": found.milliseconds(model.encoder, kept)}
            for (size, kept), ms, own in zip(
                checked.items(), medians[len(sets) :], times[len(sets) :])
        ],
    }  # fmt: skip
    content = json.dumps(table, indent=2) + "\n"
    write_atomically(output, lambda path: path.write_text(content, "utf-8"))
    print(text(table))
    return table


def check_arguments(
    config: Path, output: Path, runtime: str, seconds: float, rounds: int, check_sizes: int
) -> None:
    """Refuse what would fail only after the measuring, or means nothing."""
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime: {runtime!r} must be one of {list(RUNTIMES)}")
    if runtime != "pytorch" and importlib.util.find_spec("onnxruntime") is None:
        raise ConfigError(
            f"runtime: {runtime!r} needs onnxruntime, which is not installed: "
            "pip install 'espnet_des[onnx]'"
        )
    if not 1.0 <= seconds <= 600.0:
        raise ConfigError(f"seconds: {seconds} must be from 1 to 600, such as 10")
    if rounds < 1:
        raise ConfigError(f"rounds: {rounds} must be at least 1, such as 15")
    if check_sizes and check_sizes < 3:
        raise ConfigError(f"check_sizes: {check_sizes} must be at least 3, such as 5; or 0")
    encoder = read_config(config)["encoder"]
    if encoder not in SUPERNETS:
        raise ConfigError(
            f"{config}: encoder: {encoder!r} is no supernet; give the config.yaml of a "
            f"training with one of {list(SUPERNETS)}"
        )
    try:
        make_writable(output.parent)
    except OSError as error:
        raise ConfigError(
            f"output: {output} cannot be written ({error}); give another file"
        ) from error
    if output.is_dir():
        raise ConfigError(f"output: {output} is a folder; give a file, such as table.json")


def kept_sets(units: list[Layer]) -> list[list[int]]:
    """Units of the models that are timed, 0-based: enough of them to tell kinds apart.

    All, all but those of one kind, those of every other block, and none. Of kinds with
    several components also all with one component in each layer.

    Args:
        units: of the supernet; a layer stands there once for each of its components.
    """
    everything = range(len(units))
    sets = [list(everything)]
    for kind in dict.fromkeys(unit.kind for unit in units):
        sets.append([u for u in everything if units[u].kind != kind])
    sets += [[u for u in everything if units[u].block % 2], []]
    first = {units.index(unit) for unit in units}
    for kind in divided_kinds(units):
        sets.append([u for u in everything if units[u].kind != kind or u in first])
    return [kept for number, kept in enumerate(sets) if kept not in sets[:number]]


def divided_kinds(units: list[Layer]) -> dict[str, int]:
    """Kinds of layers with several components, and how many a layer has."""
    return {unit.kind: count for unit, count in Counter(units).items() if count > 1}


def sets_of_sizes(model: DESModel, count: int) -> dict[int, list[int]]:
    """Some sizes of a supernet, and their units.

    Raises:
        ConfigError: where they are not chosen yet.
    """
    if not count:
        return {}
    encoder = model.encoder
    if not model.state.is_frozen:
        raise ConfigError(
            f"check_sizes: {count}: the model is of stage 1, in which the layers of its sizes are "
            "not chosen yet; use a file of a stage-2 epoch, or leave it out"
        )
    sizes = evenly_spaced(Sizes(encoder.sizes, encoder.all_sizes), count)
    return {size: encoder.kept_units(size) for size in sizes}


class Saved(NamedTuple):
    """Files of a model: parameters with the config, or an ONNX file without."""

    file: Path
    config: Path | None = None

    def worker(self, seconds: float, rate: int) -> Worker:
        """A process that holds it."""
        if self.config is None:
            return OnnxWorker(self.file, int(seconds * rate))
        return Worker(self.config, self.file, seconds)


def save(model: DESModel, config: Path, kept: list[int], folder: Path, runtime: str) -> Saved:
    """Write a model with these units of the supernet.

    Args:
        model: the supernet.
        config: its ``config.yaml``.
        kept: numbers of units, 0-based, ascending.
        folder: where the files go; it is made.
        runtime: one of ``RUNTIMES``.

    Raises:
        ConfigError: where it cannot be exported.
    """
    folder.mkdir()
    saved = Saved(folder / "model.pth", folder / "config.yaml")
    assert saved.config is not None
    write_state(state_with(model, kept, model.encoder.num_layers), saved.file)
    own = with_files_for(config_with(read_config(config), model, kept), config, folder)
    saved.config.write_text(yaml.safe_dump(own, sort_keys=False), "utf-8")
    if runtime == "pytorch":
        return saved
    # Only now: ONNX need not be installed.
    from espnet_des.deploy.onnx.graph import CTCGraph, export

    part, _ = load_model(saved.config, saved.file)
    file = folder / "float.onnx"
    export(CTCGraph(part.eval(), int8=runtime == "onnx-int8"), file, {})
    if runtime == "onnx-int8":
        from espnet_des.deploy.onnx.int8 import quantize

        quantize(file, folder / "int8.onnx")
        file = folder / "int8.onnx"
    return Saved(file)


def measure(
    saved: list[Saved], seconds: float, rate: int, rounds: int, bar
) -> list[list[float]]:
    """Seconds of every model and round, each model in a process of its own.

    Args:
        saved: the models.
        seconds: length of the audio.
        rate: samples per second.
        rounds: timings of each model.
        bar: is moved by a step for each model and each timing.
    """
    times: list[list[float]] = [[] for _ in saved]
    with contextlib.ExitStack() as stack:
        # All start at once: most of this time is the import of ESPnet.
        workers = [stack.enter_context(one.worker(seconds, rate)) for one in saved]
        for worker in workers:
            worker.facts()
            bar.update()
        for number in range(rounds):
            # Round by round, in another order each time: a slow minute of the machine meets
            # all models.
            for i in random.Random(number).sample(range(len(workers)), len(workers)):
                times[i].append(workers[i].recognise(threads=1, clock=time.process_time))
                bar.update()
    return times


def paired_medians(times: list[list[float]]) -> list[float]:
    """Seconds of every model, without how fast the machine was in a round.

    A busy machine is slower in some rounds than in others, for all models alike. So medians
    are of what a time is relative to its round, and only then of the rounds.

    Args:
        times: seconds of every model and round.
    """
    logs = numpy.log(times)
    levels = logs.mean(axis=0)
    return numpy.exp(numpy.median(logs - levels, axis=1) + numpy.median(levels)).tolist()


def fit(units: list[Layer], sets: list[list[int]], milliseconds: list[float]) -> Fit:
    """Non-negative least squares of the relative differences.

    Args:
        units: of the supernet, see :func:`kept_sets`.
        sets: numbers of the units of each model.
        milliseconds: of each model.
    """
    kinds = list(dict.fromkeys(unit.kind for unit in units))
    divided = divided_kinds(units)
    rows = []
    for kept in sets:
        there = Counter(layer.kind for layer in {units[u] for u in kept})
        components = Counter(units[u].kind for u in kept)
        rows.append([1.0, *(there[kind] for kind in kinds),
                     *(components[kind] / count for kind, count in divided.items())])  # fmt: skip
    parts, measured = numpy.array(rows), numpy.array(milliseconds)
    found, _ = nnls(parts / measured[:, None], numpy.ones(len(measured)))
    predicted = parts @ found
    error = float(numpy.abs(predicted / measured - 1).max())
    rest, *times = found.tolist()
    layers = dict(zip(kinds, times))
    shared = {kind: layers[kind] for kind in divided}
    for kind, of_components in zip(divided, times[len(kinds) :]):
        layers[kind] += of_components
    return Fit(rest, layers, shared, predicted.tolist(), error)


def about(runtime: str, seconds: float, rounds: int) -> dict:
    """Machine and settings."""
    onnxruntime = None
    if runtime != "pytorch":
        onnxruntime = importlib.import_module("onnxruntime").__version__
    return {
        "cpu": processor(),
        "runtime": runtime,
        "threads": 1,
        "seconds": seconds,
        "rounds": rounds,
        "torch": version("torch"),
        "onnxruntime": onnxruntime,
        "espnet": version("espnet"),
        "python": platform.python_version(),
    }


def text(table: dict) -> str:
    """For the user, in Markdown."""
    facts, times = table["about"], table["milliseconds"]
    lines = [
        f"{facts['cpu']}, {facts['runtime']}, 1 thread, {facts['seconds']:g} s of audio, "
        f"CPU time, medians of {facts['rounds']} paired rounds.", "",
        "| part | ms |", "|---|---:|",
        *(f"| a layer {kind} | {ms:.3f} |" for kind, ms in times["layers"].items()),
        *(f"| of it, what its components share: {kind} | {ms:.3f} |"
          for kind, ms in times["shared"].items()),
        f"| all but the layers | {times['rest']:.3f} |", "",
        "| layers that were timed | ms | as the parts say |", "|---|---:|---:|",
        *(
            f"| {ranges(row['kept']) or '-'} | {row['ms']:.2f} "
            f"| {row['predicted_ms']:.2f} |"
            for row in table["measured"]
        ), "",
        f"The parts explain these times to {table['largest_error']:.1%}.",
    ]  # fmt: skip
    if table["sizes"]:
        lines += [
            "", "| size | ms | as the parts say | difference |", "|---:|---:|---:|---:|",
            *(
                f"| {row['size']} | {row['ms']:.2f} | {row['predicted_ms']:.2f} "
                f"| {row['ms'] / row['predicted_ms'] - 1:+.1%} |"
                for row in table["sizes"]
            ),
        ]  # fmt: skip
    return "\n".join(lines)
