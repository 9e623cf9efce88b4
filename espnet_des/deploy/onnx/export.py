"""Export one size to ONNX, and leave no file that differs from PyTorch."""

import copy
import logging
from pathlib import Path
from typing import Any, NamedTuple

from espnet_des.corpus.kaldi import check_ours
from espnet_des.deploy.extract import extract_subnet
from espnet_des.deploy.onnx.graph import SOURCES, CTCGraph, export, session
from espnet_des.deploy.onnx.recognise import transcriptions, word_error_rates
from espnet_des.deploy.onnx.reference import (
    check_difference,
    checking_audio,
    compare,
    references,
)
from espnet_des.deploy.onnx.sherpa import folder as sherpa
from espnet_des.deploy.onnx.sherpa.graph import AsSherpa
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model, read_config
from espnet_des.nn.encoders import SUPERNETS
from espnet_des.nn.losses import CTC_BLANK
from espnet_des.nn.sizes import set_size
from espnet_des.nn.waveforms import sampling_rate, shortest_input
from espnet_des.utils.audio import find_audio
from espnet_des.utils.partial import partial_folder

QUANTIZE = ("none", "int8")
RUNTIMES = ("onnxruntime", sherpa.RUNTIME)


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
        # First what cannot be exported is refused.
        graph = CTCGraph(copy.deepcopy(model), source, int8=quantize == "int8")
        about = metadata(model, args, source) | {"sampling_rate": rate}
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
        path, how = put(written, output, runtime, source)
    return Exported(path, path.stat().st_size, difference, agreement, wer, how)


def put(written: Path, output: Path, runtime: str, source: str) -> tuple[Path, str]:
    """Put what was written in its place; says where the model is, and how to try it."""
    if runtime != sherpa.RUNTIME:
        written.replace(output)
        if source != "waveform":
            return output, f"it takes {source}, as the model's frontend gives them"
        return output, f"python3 {Path(__file__).with_name('example.py')} {output} some.wav"
    output.mkdir(exist_ok=True)
    for file in sorted(written.parent.iterdir()):
        file.replace(output / file.name)
    # Of an earlier export, and maybe of other tokens.
    for other in set(sherpa.MODEL.values()) - {written.name}:
        (output / other).unlink(missing_ok=True)
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
        check_ours(output, sherpa.TOKENS)
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
