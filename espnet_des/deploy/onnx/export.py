"""Export one size to ONNX, and leave no file that differs from PyTorch."""

import copy
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy
import torch

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    TooShortUttError,
    check_short_utt,
)
from espnet_des.corpus.kaldi import read_table
from espnet_des.deploy.extract import extract_subnet
from espnet_des.deploy.onnx.graph import SOURCES, CTCGraph, export, run, session
from espnet_des.deploy.onnx.sherpa import folder as sherpa
from espnet_des.deploy.onnx.sherpa.graph import AsSherpa
from espnet_des.errors import ConfigError
from espnet_des.espnet_api import without_exits
from espnet_des.inference.best_path import BestPathDecoder, decode_files
from espnet_des.inference.loading import load_model, read_config
from espnet_des.inference.scoring import count_errors, text_cleaner
from espnet_des.nn.encoders import SUPERNETS
from espnet_des.nn.front_end import SUBSAMPLING
from espnet_des.nn.losses import CTC_BLANK
from espnet_des.nn.sizes import set_size
from espnet_des.nn.waveforms import sampling_rate
from espnet_des.utils.audio import find_audio, read_header, read_mono
from espnet_des.utils.partial import partial_folder

QUANTIZE = ("none", "int8")
RUNTIMES = ("onnxruntime", sherpa.RUNTIME)
# Of log-probabilities, float32 against float32: other orders of summation.
TOLERANCE = 1e-2
NUM_CHECKED = 6


class Exported(NamedTuple):
    """What was measured of an exported file.

    Attributes:
        path: the file.
        num_bytes: its size.
        difference: largest difference of a log-probability from PyTorch's.
        agreement: share of frames whose best token is PyTorch's.
        wer: percent, of ``pytorch`` and of the ``onnx`` file; empty without text.
        how: how to try it.
    """

    path: Path
    num_bytes: int
    difference: float
    agreement: float
    wer: dict[str, float]
    how: str

    def summary(self) -> str:
        """For the user."""
        lines = [
            f"{self.path}: {self.num_bytes / 1e6:.2f} MB; beside PyTorch the best token is the "
            f"same in {self.agreement:.2%} of the frames, log-probabilities differ by up to "
            f"{self.difference:.2g}"
        ]
        if self.wer:
            lines.append(
                f"WER: {self.wer['onnx']:.2f}%, of PyTorch {self.wer['pytorch']:.2f}%"
            )
        return "\n".join(lines + [f"Try it: {self.how}"])


def export_onnx(*arguments: Any, **options: Any) -> Exported:
    """:func:`write_onnx` with the same arguments; then tell what was measured."""
    done = write_onnx(*arguments, **options)
    print(done.summary())
    return done


def write_onnx(
    asr_train_config: Path,
    asr_model_file: Path,
    output: Path,
    size: int | None = None,
    source: str = "waveform",
    quantize: str = "none",
    wav_scp: Path | None = None,
    text: Path | None = None,
    runtime: str = "onnxruntime",
) -> Exported:
    """Write one ONNX file, and compare it with PyTorch at several lengths.

    Args:
        asr_train_config: of a supernet, or of a size extracted from it.
        asr_model_file: its parameters.
        output: the file to write, ``*.onnx``; of ``sherpa-onnx`` the folder.
        size: of a supernet, number of layers.
        source: ``waveform``, or ``features`` as the frontend gives them.
        quantize: ``none`` or ``int8``.
        wav_scp: audio to check with; noise without it.
        text: its transcriptions, for the word error rate.
        runtime: ``onnxruntime``, or ``sherpa-onnx`` for a folder that it decodes with.

    Raises:
        ConfigError: where something does not fit, or the outputs differ.
    """
    check_arguments(output, source, quantize, wav_scp, text, runtime)
    wavs = {} if text is None or wav_scp is None else find_audio(wav_scp)
    texts = {} if text is None or wav_scp is None else transcriptions(wavs, wav_scp, text)
    with partial_folder(output.parent, f"{output.name}.export") as partial:
        model, args = load_one_size(asr_train_config, asr_model_file, size, partial)
        if runtime == sherpa.RUNTIME:
            sherpa.check(model, args)
        rate = sampling_rate(args)
        about = metadata(model, args, source) | {"sampling_rate": rate}
        graph = CTCGraph(copy.deepcopy(model), source, int8=quantize == "int8")
        pairs = references(model, checking_audio(model, wav_scp, rate), source)
        logging.info(f"Exporting {model.encoder.num_layers} layers of {asr_model_file}")
        result = partial / "float.onnx"
        export(graph, result, about)
        difference, agreement = compare(session(result), pairs)
        check_difference(output, difference)
        if quantize == "int8":
            from espnet_des.deploy.onnx import int8

            int8.quantize(result, partial / "int8.onnx")
            result = partial / "int8.onnx"
        opened, written = session(result), result
        if runtime == sherpa.RUNTIME:
            # One by one, as it decodes; silence is blank whatever the model makes of it.
            pairs = [ref for ref in pairs[:-1] if ref.speech.any()]
            folder = partial / "folder"
            folder.mkdir()
            shortest = shortest_input(model, source)
            written = sherpa.write_folder(result, folder, model, args, shortest, quantize)
            opened = AsSherpa(session(written), marked=True)
            _, unmarked = compare(AsSherpa(session(written), marked=False), pairs)
            logging.warning(
                f"{runtime}: without the mark, which {sherpa.README} explains, the best token "
                f"is PyTorch's in {unmarked:.2%} of the frames"
            )
        if written != partial / "float.onnx":
            difference, agreement = compare(opened, pairs)
        if quantize == "none":
            check_difference(output, difference)
        wer = (
            {} if text is None else word_error_rates(model, args, opened, source, wavs, texts)
        )
        path, how = put(written, output, runtime)
    return Exported(path, path.stat().st_size, difference, agreement, wer, how)


def check_difference(output: Path, difference: float) -> None:
    """Raise ConfigError where float32 differs from PyTorch by more than rounding."""
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"{output} was not written: its log-probabilities differ from PyTorch's by "
            f"{difference:.2g} (up to {TOLERANCE:g} is rounding)"
        )


def put(written: Path, output: Path, runtime: str) -> tuple[Path, str]:
    """Put what was written in its place; says where the model is, and how to try it."""
    if runtime != sherpa.RUNTIME:
        written.replace(output)
        return output, f"python3 {Path(__file__).with_name('example.py')} {output} some.wav"
    output.mkdir(exist_ok=True)
    for file in sorted(written.parent.iterdir()):
        file.replace(output / file.name)
    return output / written.name, f"{output / sherpa.README} has the commands"


def check_arguments(output: Path, source, quantize, wav_scp, text, runtime) -> None:
    """Refuse what cannot work before anything is loaded."""
    for key, value, known in (
        ("source", source, SOURCES), ("quantize", quantize, QUANTIZE),
        ("runtime", runtime, RUNTIMES),
    ):  # fmt: skip
        if value not in known:
            raise ConfigError(f"{key}: {value!r} must be one of {list(known)}")
    if runtime == sherpa.RUNTIME:
        if source != "waveform":
            raise ConfigError(f"source: {source}: {runtime} needs waveform")
        if output.suffix == ".onnx" or (output.exists() and not output.is_dir()):
            raise ConfigError(f"output: {output} must be a folder for {runtime}")
    elif output.suffix != ".onnx":
        raise ConfigError(f"output: {output} must end in .onnx")
    if text is not None and wav_scp is None:
        raise ConfigError("text: transcriptions need their audio; give wav_scp as well")
    output.parent.mkdir(parents=True, exist_ok=True)


def load_one_size(config: Path, model_file: Path, size: int | None, folder: Path):
    """A model of one size, and its training arguments.

    Args:
        config: of a supernet, or of a model of one size.
        model_file: its parameters.
        size: of a supernet; else None, or the size that the model has.
        folder: for the files of a size that is extracted first.
    """
    if read_config(config)["encoder"] in SUPERNETS:
        if size is None:
            raise ConfigError(f"size: {config} is of a supernet; say which of its sizes")
        model_file = extract_subnet(config, model_file, size, folder / "subnet")
        model, args = load_model(folder / "subnet/config.yaml", model_file)
        return model.eval(), args
    model, args = load_model(config, model_file)
    set_size(model, size)
    return model.eval(), args


def shortest_input(model, source: str) -> int:
    """The fewest samples or frames with which there is a frame of output."""
    embed = model.encoder.embed
    frames = getattr(embed, "MIN_FRAMES", 1)
    if isinstance(embed, SUBSAMPLING):
        frames = check_short_utt(embed, 0)[1]  # what is shorter than that is too short
    if source == "features":
        return frames
    stft = model.frontend.stft
    if stft.center:  # reflected at both ends, which takes more than it reflects
        return max((frames - 1) * stft.hop_length, stft.n_fft // 2 + 1)
    return stft.n_fft + (frames - 1) * stft.hop_length


def metadata(model, args, source: str) -> dict[str, object]:
    """What one must know to decode with the file alone."""
    encoder = model.encoder
    return {
        "tokens": list(args.token_list),
        "token_type": args.token_type,
        "blank_id": CTC_BLANK,
        "source": source,
        "min_length": shortest_input(model, source),
        "num_layers": encoder.num_layers,
        "kept_layers": [f"{layer.block}.{layer.kind}" for layer in encoder.layers],
    }


def checking_audio(model, wav_scp: Path | None, rate: int) -> list[torch.Tensor]:
    """A few waveforms ``(num_samples,)`` of different lengths, longest first."""
    if wav_scp is None:
        logging.warning("Checked with noise: give wav_scp to check with real audio")
        return [torch.randn(int(rate * seconds)) / 10 for seconds in (7.3, 3.1, 1.0, 0.6)]
    shortest = shortest_input(model, "waveform") / rate
    seconds = {}
    for path in find_audio(wav_scp).values():
        header = read_header(path)
        if header.frames / header.rate > shortest:
            seconds[path] = header.frames / header.rate
    if not seconds:
        raise ConfigError(f"wav_scp: {wav_scp} has no audio longer than {shortest:.2f} s")
    wavs = sorted(seconds, key=lambda path: seconds[path])
    steps = numpy.linspace(len(wavs) - 1, 0, min(NUM_CHECKED, len(wavs))).round().astype(int)
    return [torch.from_numpy(read_mono(wavs[i], rate)) for i in steps]


class Reference(NamedTuple):
    """An input, and what PyTorch makes of it."""

    speech: torch.Tensor
    lengths: torch.Tensor
    log_probs: torch.Tensor
    out_lengths: torch.Tensor


@torch.no_grad()
def references(model, waves: list[torch.Tensor], source: str) -> list[Reference]:
    """Each waveform alone, and all of them padded in a batch.

    Features are those of each waveform alone in the batch, too: in ESPnet the last ones of an
    utterance change with the padding after it, which the exported file is free of.
    """
    out = []
    alone = [model.frontend(wave[None], torch.tensor([len(wave)]))[0][0] for wave in waves]
    batches: list[slice] = [slice(i, i + 1) for i in range(len(waves))]
    for some in [*batches, slice(None)]:
        speech, lengths = _padded(waves[some])
        feats, frames = _padded(alone[some])
        given = (speech, lengths) if source == "waveform" else (feats, frames)
        if model.normalize is not None:
            feats, frames = model.normalize(feats.clone(), frames)  # ESPnet's works in place
        # Blocks with exits may feed back what the output layer says of these.
        encoded, out_lengths, _ = model.encoder(feats, frames, ctc=model.ctc)
        log_probs = model.ctc.log_softmax(without_exits(encoded))
        out.append(Reference(*given, log_probs, out_lengths))
    return out


def _padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


def compare(session, references: list[Reference]) -> tuple[float, float]:
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
    return difference, equal / max(frames, 1)


class SessionAsModel:
    """What BestPathDecoder asks of a model, answered by an ONNX file."""

    def __init__(self, session, model: ESPnetASRModel, source: str):
        self.session, self.source = session, source
        self.frontend, self.blank_id = model.frontend, CTC_BLANK
        self.parameters, self.modules = model.parameters, model.modules
        self.shortest = shortest_input(model, source)
        self.ctc = SimpleNamespace(softmax=torch.exp)

    def eval(self):
        return self

    def encode(self, speech: torch.Tensor, lengths: torch.Tensor):
        if self.source == "features":
            speech, lengths = self.frontend(speech, lengths)
        if speech.size(1) < self.shortest:
            raise TooShortUttError("is too short", speech.size(1), self.shortest)
        return tuple(map(torch.from_numpy, run(self.session, speech, lengths)))


def transcriptions(wavs: dict[str, str], wav_scp: Path, text: Path) -> dict[str, str]:
    """Utterance id to words, of all audio that ``wav_scp`` names."""
    found = read_table(text)
    missing = [utt for utt in wavs if utt not in found]
    if missing:
        raise ConfigError(
            f"text: {text} has no line for {len(missing)} utterances of {wav_scp}, "
            f"such as {missing[0]}"
        )
    return {utt: found[utt] for utt in wavs}


def word_error_rates(
    model, args, opened, source: str, wavs: dict[str, str], texts: dict[str, str]
) -> dict[str, float]:
    """Percent, by CTC best path, of the PyTorch model and of the ONNX file that is opened."""
    clean = text_cleaner(args.cleaner or "none")
    texts = {utt: clean(words) for utt, words in texts.items()}
    out = {}
    for name, recogniser in (
        ("pytorch", model), ("onnx", SessionAsModel(opened, model, source))
    ):  # fmt: skip
        # One by one: in int8 the range of a batch would set the steps of each.
        decoder = BestPathDecoder(recogniser, args)
        found = decode_files(decoder, wavs, 1, f"WER of {name}")
        out[name] = count_errors(texts, found).rate
    return out
