"""Text and time of sizes in PyTorch, onnxruntime and sherpa-onnx, utterance by utterance."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
import torch

from espnet_des.deploy.onnx.export import QUANTIZE, load_one_size, write_onnx
from espnet_des.deploy.onnx.graph import session
from espnet_des.deploy.onnx.recognise import SessionAsModel, transcriptions
from espnet_des.deploy.onnx.sherpa.folder import RUNTIME
from espnet_des.deploy.onnx.sherpa.recognise import recogniser
from espnet_des.errors import ConfigError
from espnet_des.inference.best_path import BestPathDecoder
from espnet_des.inference.scoring import count_errors, text_cleaner
from espnet_des.measure.benchmark.rounds import one_thread
from espnet_des.measure.benchmark.written import write_report
from espnet_des.nn.waveforms import sampling_rate
from espnet_des.utils.audio import find_audio, read_mono
from espnet_des.utils.machine import describe
from espnet_des.utils.partial import partial_folder
from espnet_des.utils.progress import progress

PYTORCH = "PyTorch"
# A recogniser of one utterance: samples ``(num_samples,)`` to text.
Recogniser = Callable[[numpy.ndarray], str]


class Row(NamedTuple):
    """What a runtime gave for a size and a data set.

    Attributes:
        size: number of layers; None of a model of one size.
        data: name of the folder.
        runtime: and its weights.
        wer: percent.
        as_pytorch: share of the utterances whose text is that of PyTorch.
        as_onnx: of sherpa-onnx, of which it is that of onnxruntime with the same weights.
        rtf: seconds of CPU time per second of audio; the median of the utterances.
    """

    size: int | None
    data: str
    runtime: str
    wer: float
    as_pytorch: float
    as_onnx: float | None
    rtf: float


def benchmark_runtimes(
    asr_train_config: Path,
    asr_model_file: Path,
    data: Sequence[Path],
    output_dir: Path,
    sizes: Sequence[int | None] = (None,),
) -> list[Row]:
    """Decode test sets by every runtime, print a table, and write it.

    Writes ``benchmark_runtimes.md`` and ``.json``.

    Args:
        asr_train_config: of a supernet, or of a size extracted from it.
        asr_model_file: its parameters.
        data: folders with ``wav.scp`` and ``text``.
        output_dir: where the two files go.
        sizes: of a supernet, numbers of layers.

    Raises:
        ConfigError: where sherpa-onnx cannot run the model, or something does not fit.
    """
    wavs, texts = {}, {}
    for folder in data:
        if folder.name in wavs:
            raise ConfigError(f"data: {folder.name} is the name of two of the folders")
        wavs[folder.name] = find_audio(folder / "wav.scp")
        texts[folder.name] = transcriptions(
            wavs[folder.name], folder / "wav.scp", folder / "text"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with partial_folder(output_dir, "benchmark.models") as partial, one_thread():
        for size in sizes:
            folder = partial / f"size{size}"
            folder.mkdir()
            args, runtimes = recognisers(asr_train_config, asr_model_file, size, folder)
            clean, rate = text_cleaner(args.cleaner or "none"), sampling_rate(args)
            for name in wavs:
                said = {utt: clean(words) for utt, words in texts[name].items()}
                rows += _decode(runtimes, size, name, wavs[name], said, rate)
    setting = f"{describe()}, 1 thread, CPU time, one utterance at a time"
    text = table(setting, rows)
    content = {"setting": setting, "rows": [row._asdict() for row in rows]}
    write_report(output_dir, "benchmark_runtimes", text, content)
    print(text)
    return rows


def recognisers(config: Path, model_file: Path, size: int | None, folder: Path):
    """The training arguments, and name to recogniser of every runtime.

    Args:
        config: of the training.
        model_file: its parameters.
        size: of a supernet, number of layers.
        folder: takes the exported files.
    """
    model, args = load_one_size(config, model_file, size, folder)
    decoder = BestPathDecoder(model, args)
    found: dict[str, Recogniser] = {PYTORCH: _of_decoder(decoder)}
    for quantize in QUANTIZE:
        weights = "float32" if quantize == "none" else quantize
        file = write_onnx(config, model_file, folder / f"{weights}.onnx", size,
                          quantize=quantize).path  # fmt: skip
        as_model = SessionAsModel(session(file, threads=1), model, "waveform")
        found[f"onnxruntime, {weights}"] = _of_decoder(BestPathDecoder(as_model, args))
        file = write_onnx(config, model_file, folder / weights, size, quantize=quantize,
                          runtime=RUNTIME).path  # fmt: skip
        found[f"{RUNTIME}, {weights}"] = recogniser(file)
    return args, found


def _of_decoder(decoder: BestPathDecoder) -> Recogniser:
    return lambda samples: decoder([torch.from_numpy(samples)])[0]


def _decode(
    runtimes: dict[str, Recogniser], size: int | None, data: str, wavs: dict[str, str],
    texts: dict[str, str], rate: int,
) -> list[Row]:  # fmt: skip
    """All runtimes in turn on every utterance, so that a busy machine hits all alike."""
    found: dict[str, dict[str, str]] = {name: {} for name in runtimes}
    rtfs: dict[str, list[float]] = {name: [] for name in runtimes}
    what = data if size is None else f"size {size}, {data}"
    for utt, path in progress(wavs.items(), desc=what, unit="utt"):
        samples = read_mono(path, rate)
        for name, recognise in runtimes.items():
            begin = time.process_time()
            text = recognise(samples)
            if len(samples):
                rtfs[name].append((time.process_time() - begin) / (len(samples) / rate))
            found[name][utt] = " ".join(text.split())
    rows = []
    for name, mine in found.items():
        rtf = statistics.median(rtfs[name] or [math.nan])  # of empty audio there is none
        twin = name.replace(RUNTIME, "onnxruntime")
        rows.append(Row(
            size, data, name, count_errors(texts, mine).rate, same(mine, found[PYTORCH]),
            same(mine, found[twin]) if twin != name else None, rtf,
        ))  # fmt: skip
    return rows


def same(texts: dict[str, str], others: dict[str, str]) -> float:
    """Share of the utterances with the same text."""
    return statistics.mean(float(text == others[utt]) for utt, text in texts.items())


def table(setting: str, rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "# Runtimes", "", setting + ".",
        "The text is that of decode_best_path, which PyTorch gives, in so many utterances; "
        "of sherpa-onnx also: that of onnxruntime with the same weights.", "",
        "| size | data | runtime | WER | text of PyTorch | text of onnxruntime | RTF |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in rows:
        as_onnx = "" if row.as_onnx is None else f"{row.as_onnx:.1%}"
        lines.append(
            f"| {'' if row.size is None else row.size} | {row.data} | {row.runtime} "
            f"| {row.wer:.2f}% | {row.as_pytorch:.1%} | {as_onnx} | {row.rtf:.4f} |"
        )
    return "\n".join(lines) + "\n"
