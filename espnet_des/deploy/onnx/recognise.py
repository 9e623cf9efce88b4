"""Speech recognition by exported files, and their word error rates."""

from pathlib import Path
from types import SimpleNamespace

import torch

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet_des.corpus.kaldi import read_table
from espnet_des.deploy.onnx.graph import run
from espnet_des.errors import ConfigError
from espnet_des.inference.best_path import BestPathDecoder
from espnet_des.inference.scoring import count_errors, text_cleaner
from espnet_des.inference.transcribe import decode_files
from espnet_des.nn.waveforms import shortest_input


class SessionAsModel:
    """What BestPathDecoder asks of a model, answered by an ONNX file."""

    def __init__(self, session, model: ESPnetASRModel, source: str):
        self.session, self.source = session, source
        self.frontend = model.frontend
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
