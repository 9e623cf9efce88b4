"""The folder of a size for sherpa-onnx: the model, its tokens, and how to use them."""

import logging
from pathlib import Path

from espnet_des.deploy.onnx.sherpa.graph import wrap
from espnet_des.deploy.onnx.sherpa.readme import RATE, inexact, readme
from espnet_des.deploy.onnx.sherpa.tokens import symbols, tokens_file, written_otherwise
from espnet_des.errors import ConfigError
from espnet_des.inference.best_path import BestPathDecoder
from espnet_des.utils.files import write_lines

RUNTIME = "sherpa-onnx"
MODEL = {"none": "model.onnx", "int8": "model.int8.onnx"}
TOKENS, README = "tokens.txt", "README.md"


def check(model, train_args) -> None:
    """Refuse what sherpa-onnx cannot run, before it is exported.

    Raises:
        ConfigError: where the sampling rate or the tokens do not fit.
    """
    decoder = BestPathDecoder(model, train_args)
    if decoder.rate != RATE:
        raise ConfigError(
            f"frontend_conf: fs: {decoder.rate}: sherpa-onnx resamples all audio to {RATE} Hz; "
            "train with that rate, or export for onnxruntime (--runtime onnxruntime)"
        )
    _symbols_and_others(decoder, train_args)


def write_folder(
    file: Path, folder: Path, model, train_args, shortest: int, quantize: str
) -> Path:
    """Write the files of the folder, and say what cannot be exact.

    Args:
        file: the export, from waveforms.
        folder: where they go.
        model: of one size, in PyTorch.
        train_args: its training arguments.
        shortest: the fewest samples that give a frame.
        quantize: ``none`` or ``int8``, as the export is.

    Returns:
        The file of the model.
    """
    decoder = BestPathDecoder(model, train_args)
    found, others = _symbols_and_others(decoder, train_args)
    notes = inexact(model, others, decoder.samples_per_frame)
    for note in notes:
        logging.warning(f"{RUNTIME}: {note}")
    target = folder / MODEL[quantize]
    wrap(file, target, shortest, {"source": f'"samples, as {RUNTIME} normalises them"'})
    write_lines(folder / TOKENS, tokens_file(found).splitlines())
    text = readme(target.name, model.encoder.num_layers, notes)
    write_lines(folder / README, text.splitlines())
    return target


def _symbols_and_others(
    decoder: BestPathDecoder, train_args
) -> tuple[list[str], dict[str, str]]:
    found = symbols(train_args.token_list, train_args.token_type)
    others = written_otherwise(train_args.token_list, found, decoder.tokenizer.tokens2text)
    return found, others
