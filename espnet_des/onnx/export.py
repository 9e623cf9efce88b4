"""Export one size to ONNX, and refuse to leave a file that differs from PyTorch."""

import logging
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import numpy
import torch

from espnet_des.audio import read_audio
from espnet_des.corpus.kaldi import read_table
from espnet_des.loading import load_model
from espnet_des.onnx.graph import SOURCES, CTCGraph, export, run, session
from espnet_des.options import ConfigError
from espnet_des.subnet import extract_subnet

QUANTIZE = ("none", "int8")
# Of log-probabilities, float32 against float32: other orders of summation.
TOLERANCE = 1e-3
NUM_CHECKED = 6


class Exported(NamedTuple):
    """What was measured of an exported file.

    Attributes:
        path: the file.
        num_bytes: its size.
        difference: largest difference of a log-probability from PyTorch's; of
            int8, from that of the same graph in float32.
        agreement: share of frames whose best token is PyTorch's.
        wer: percent, of ``pytorch`` and of the ``onnx`` file; empty without text.
    """

    path: Path
    num_bytes: int
    difference: float
    agreement: float
    wer: Dict[str, float]


def export_onnx(
    asr_train_config: Path,
    asr_model_file: Path,
    output: Path,
    size: Optional[int] = None,
    source: str = "waveform",
    quantize: str = "none",
    wav_scp: Optional[Path] = None,
    text: Optional[Path] = None,
) -> Exported:
    """Write one ONNX file, and compare it with PyTorch at several lengths.

    Args:
        asr_train_config: of a supernet, or of a size extracted from it.
        asr_model_file: its parameters.
        output: the file to write, ``*.onnx``.
        size: of a supernet, number of layers.
        source: ``waveform``, or ``features`` as the frontend gives them.
        quantize: ``none`` or ``int8``.
        wav_scp: audio to check with; noise without it.
        text: its transcriptions, for the word error rate.

    Raises:
        ConfigError: where something does not fit, or the outputs differ.
    """
    check_arguments(output, source, quantize, wav_scp, text)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        partial = Path(folder)
        model, args = load_one_size(asr_train_config, asr_model_file, size, partial)
        twin, _ = load_one_size(asr_train_config, asr_model_file, size, partial)
        graph = CTCGraph(twin, source)
        speech = checking_audio(wav_scp, sampling_rate(args))
        pairs = compared(model, speech, source)
        shortest = shortest_input(model)
        logging.info(f"Exporting {asr_model_file}, {model.encoder.num_layers} layers")
        export(graph, partial / "float.onnx", metadata(model, args, source, shortest))
        difference, agreement = compare(session(partial / "float.onnx"), pairs)
        if not difference <= TOLERANCE:
            raise ConfigError(
                f"{output} was not written: its log-probabilities differ from PyTorch's by "
                f"{difference:.2g} (at most {TOLERANCE} is rounding)"
            )
        result = partial / "float.onnx"
        if quantize == "int8":
            from espnet_des.onnx.int8 import quantize as to_int8

            result = partial / "int8.onnx"
            to_int8(partial / "float.onnx", result)
            difference, agreement = compare(session(result), pairs)
        wer = {}
        if text is not None:
            wer = word_error_rates(model, args, result, source, wav_scp, text)
        result.replace(output)
    return Exported(output, output.stat().st_size, difference, agreement, wer)


def check_arguments(output: Path, source, quantize, wav_scp, text) -> None:
    """Refuse what cannot work before anything is loaded."""
    for key, value, known in (("source", source, SOURCES), ("quantize", quantize, QUANTIZE)):
        if value not in known:
            raise ConfigError(f"{key}: {value!r} must be one of {list(known)}")
    if output.suffix != ".onnx":
        raise ConfigError(f"output: {output} must end in .onnx")
    if text is not None and wav_scp is None:
        raise ConfigError("text: transcriptions need their audio; give wav_scp as well")
    output.parent.mkdir(parents=True, exist_ok=True)


def load_one_size(config: Path, model_file: Path, size: Optional[int], folder: Path):
    """A model of one size, and its training arguments.

    Args:
        config: of a supernet, or of a model of one size.
        model_file: its parameters.
        size: of a supernet; else None, or the size that the model has.
        folder: for the files of a size that is extracted first.
    """
    if read_config(config)["encoder"] == "des_conformer":
        model_file = extract_subnet(config, model_file, size, folder / "subnet")
        config = folder / "subnet/config.yaml"
        return load_model(config, model_file)
    model, args = load_model(config, model_file)
    own = getattr(model.encoder, "num_layers", None)
    if size not in (None, own):
        raise ConfigError(f"size: {size} cannot be had: {config} is of one size, {own} layers")
    return model, args


def shortest_input(model, source: str) -> int:
    """The fewest samples or frames with which there is a frame of output."""
    embed = model.encoder.embed
    frames = getattr(embed, "MIN_FRAMES", 1)
    if isinstance(embed, SUBSAMPLING):
        frames = check_short_utt(embed, 0)[1] + 1
    if source == "features":
        return frames
    stft = model.frontend.stft
    if stft.center:  # reflected at both ends, which takes more than it reflects
        return max((frames - 1) * stft.hop_length, stft.n_fft // 2 + 1)
    return stft.n_fft + (frames - 1) * stft.hop_length


def metadata(model, args, source: str) -> Dict[str, object]:
    """What one must know to decode with the file alone."""
    encoder = model.encoder
    return {
        "tokens": list(args.token_list),
        "token_type": args.token_type,
        "blank_id": model.blank_id,
        "source": source,
        "sampling_rate": sampling_rate(args),
        "min_length": shortest_input(model, source),
        "num_layers": encoder.num_layers,
        "kept_layers": [f"{layer.block}.{layer.kind}" for layer in encoder.layers],
    }


def checking_audio(wav_scp: Optional[Path], rate: int) -> List[torch.Tensor]:
    """A few waveforms ``(num_samples,)`` of different lengths, longest first."""
    if wav_scp is None:
        logging.warning("Checked with noise: give wav_scp to check with real audio")
        return [torch.randn(int(rate * seconds)) / 10 for seconds in (7.3, 3.1, 1.0, 0.6)]
    wavs = sorted(read_table(wav_scp).values(), key=lambda path: soundfile.info(path).frames)
    steps = numpy.linspace(len(wavs) - 1, 0, min(NUM_CHECKED, len(wavs))).round().astype(int)
    return [read_audio(wavs[i], rate) for i in steps]


class Reference(NamedTuple):
    """An input, and what PyTorch makes of it."""

    speech: torch.Tensor
    lengths: torch.Tensor
    log_probs: torch.Tensor
    out_lengths: torch.Tensor


@torch.no_grad()
def references(model, waves: List[torch.Tensor], source: str) -> List[Reference]:
    """Each waveform alone, and all of them padded in a batch."""
    out = []
    for batch in [[wave] for wave in waves] + [waves]:
        speech = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        lengths = torch.tensor([len(wave) for wave in batch])
        encoded, out_lengths = model.encode(speech, lengths)
        if source == "features":
            speech, lengths = model.frontend(speech, lengths)
        out.append(Reference(speech, lengths, model.ctc.log_softmax(encoded), out_lengths))
    return out


def compare(session, references: List[Reference]) -> Tuple[float, float]:
    """Largest difference of a log-probability, and share of equal best tokens."""
    difference, equal, frames = 0.0, 0, 0
    for ref in references:
        log_probs, lengths = run(session, ref.speech, ref.lengths)
        if lengths.tolist() != ref.out_lengths.tolist():
            return float("inf"), 0.0
        for mine, theirs, n in zip(log_probs, ref.log_probs.numpy(), lengths):
            mine, theirs = mine[:n], theirs[:n]
            difference = max(difference, float(numpy.abs(mine - theirs).max(initial=0.0)))
            equal += int((mine.argmax(-1) == theirs.argmax(-1)).sum())
            frames += int(n)
    return difference, equal / frames
