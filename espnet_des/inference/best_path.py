"""CTC best-path decoding, batched: the most probable token of every frame.

Repetitions are merged and blanks dropped. This is not a beam search with
``ctc_weight: 1.0``; it is much faster and has no language model.
"""

import argparse
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet_des.errors import ConfigError
from espnet_des.espnet_api import without_exits
from espnet_des.inference.named_files import check_tokenizer
from espnet_des.nn.losses import CTC_BLANK
from espnet_des.nn.waveforms import (
    can_have_speech,
    mirror_ends,
    mirrored_samples,
    sampling_rate,
    sees_padding,
)
from espnet_des.utils.audio import check_finite, check_shape


class Run(NamedTuple):
    """A token, and the frames in which it was the most probable one.

    Attributes:
        token: as in the model's token list.
        first: number of its first encoder frame, from 0.
        count: number of its frames.
        confidence: mean probability of the token in these frames.
    """

    token: str
    first: int
    count: int  # type: ignore[assignment]  # in place of tuple's method
    confidence: float


class TimedToken(NamedTuple):
    """A token, and when it was the most probable one, in seconds.

    A CTC model may emit a token anywhere in or shortly after its sound, mostly
    in one or two frames. So ``start`` says about when it was spoken, to some
    100 ms; it is no boundary, and ``duration`` is not how long the sound was.

    Attributes:
        token: as in the model's token list.
        start: begin of its first frame, in seconds from the begin of the audio.
        duration: of its frames, in seconds.
        confidence: mean probability of the token in these frames.
    """

    token: str
    start: float
    duration: float
    confidence: float


class BestPathDecoder:
    """Speech to text with a CTC model, at the size that it is set to.

    >>> decoder = BestPathDecoder(model, train_args)
    >>> decoder([wave])
    ['ONE TWO THREE']

    Args:
        model: an ESPnet ASR model with a CTC output layer.
        train_args: what ESPnet's build_model_from_file returns beside it.

    Attributes:
        rate: samples per second that the model takes.

    Raises:
        ConfigError: where it has no CTC output layer, takes no waveforms, or its
            sentencepiece model is not there.
    """

    def __init__(self, model: ESPnetASRModel, train_args: argparse.Namespace):
        if getattr(model, "ctc", None) is None:
            raise ConfigError(
                "model_conf: ctc_weight: 0.0: the model was trained without a CTC output "
                "layer, which best-path decoding needs; use espnet2.bin.asr_inference"
            )
        self.model = model.eval()
        self.rate = sampling_rate(train_args)
        self.converter = TokenIDConverter(token_list=train_args.token_list)
        self.tokenizer = build_tokenizer(
            token_type=train_args.token_type, bpemodel=train_args.bpemodel
        )
        check_tokenizer(self.tokenizer)

    def __call__(self, waves: list[torch.Tensor]) -> list[str]:
        """Texts of a batch of waveforms, each ``(samples,)``; see :meth:`runs`."""
        return [self.text(runs) for runs in self.runs(waves)]

    def text(self, runs: Sequence[Run]) -> str:
        return self.tokenizer.tokens2text([run.token for run in runs])

    def times(self, runs: Sequence[Run], seconds: float) -> list[TimedToken]:
        """When tokens were recognised, in audio of this length."""
        frame, tokens = self.samples_per_frame / self.rate, []
        for token, first, count, confidence in runs:
            start = min(first * frame, seconds)
            duration = min(count * frame, seconds - start)
            tokens.append(TimedToken(token, start, duration, confidence))
        return tokens

    @torch.no_grad()
    def runs(self, waves: list[torch.Tensor]) -> list[list[Run]]:
        """Tokens of a batch of waveforms, each as if it were decoded alone.

        Args:
            waves: float tensors ``(samples,)``. Those that are empty, all zero or
                too short for the front end have no tokens.

        Raises:
            AudioError: where samples are NaN or infinite, or no waveform.
        """
        found: list[list[Run]] = [[] for _ in waves]
        for number, wave in enumerate(waves):
            check_shape(wave, f"waves[{number}]")
            check_finite(wave.float().numpy(force=True), f"waves[{number}]")
        spoken = [i for i, w in enumerate(waves) if can_have_speech(self.model, w)]
        if not spoken:
            return found
        spoken.sort(key=lambda i: len(waves[i]), reverse=True)  # RNNs want it so
        for batch in [[i] for i in spoken] if sees_padding(self.model) else [spoken]:
            try:
                encoded, lengths = self._encode([waves[i] for i in batch])
            except TooShortUttError:  # the longest one, and so all of them
                break
            probs, ids = self.model.ctc.softmax(encoded).max(-1)
            for i, p, best, n in zip(batch, probs.cpu(), ids.cpu(), lengths.tolist()):
                found[i] = self._merge(best[:n], p[:n])
        return found

    def _encode(self, waves: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode waves, the longest first; ``(batch, time, dim)`` and lengths.

        ESPnet's STFT continues the longest utterance with its mirror image, but
        the shorter ones with the padding. So that each gives what it gives alone,
        its mirror image follows here; a silent row on top keeps ESPnet's beyond.
        """
        device = next(self.model.parameters()).device
        speech = pad_sequence(waves, batch_first=True).to(device)
        lengths = torch.tensor([len(w) for w in waves], device=device)
        border = 0 if len(waves[0]) == len(waves[-1]) else mirrored_samples(self.model)
        if border:
            speech = mirror_ends(speech, lengths, border)[:, border:]
            speech = torch.cat((torch.zeros_like(speech[:1]), speech))
            lengths = torch.cat((lengths.new_tensor([speech.size(1)]), lengths))
        encoded, encoded_lengths = self.model.encode(speech, lengths)
        encoded = without_exits(encoded)
        return (encoded[1:], encoded_lengths[1:]) if border else (encoded, encoded_lengths)

    def _merge(self, ids: torch.Tensor, probs: torch.Tensor) -> list[Run]:
        """Runs of the best path ``(time,)``, whose probabilities are given."""
        merged, run, counts = ids.unique_consecutive(return_inverse=True, return_counts=True)
        firsts = counts.cumsum(0) - counts
        means = torch.zeros(len(merged)).index_add(0, run, probs.float()) / counts
        kept = merged != CTC_BLANK
        names = self.converter.ids2tokens(merged[kept].tolist())
        columns = (values[kept].tolist() for values in (firsts, counts, means))
        return [Run(*row) for row in zip(names, *columns)]

    @functools.cached_property
    def samples_per_frame(self) -> float:
        """Samples from one encoder frame to the next.

        Measured, because every kind of subsampling reduces in its own way; to
        a multiple of the front end's hop, because frames are lost at the edges.
        """
        device = next(self.model.parameters()).device
        samples = 10 * self.rate
        with torch.no_grad():
            _, lengths = self.model.encode(
                torch.zeros(1, samples, device=device), torch.tensor([samples], device=device)
            )
        ratio = samples / int(lengths[0])
        hop = getattr(self.model.frontend, "hop_length", None)
        return hop * round(ratio / hop) if hop else ratio
