"""How far an exported file is from PyTorch, at several lengths."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy
import torch

from espnet_des.deploy.onnx.graph import run
from espnet_des.errors import ConfigError
from espnet_des.espnet_api import without_exits
from espnet_des.nn.waveforms import shortest_input
from espnet_des.utils.audio import find_audio, read_header, read_mono

# Of log-probabilities, float32 against float32: other orders of summation.
TOLERANCE = 1e-2
NUM_CHECKED = 6


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


def check_difference(output: Path, difference: float) -> None:
    """Raise ConfigError where float32 differs from PyTorch by more than rounding."""
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"{output} was not written: its log-probabilities differ from PyTorch's by "
            f"{difference:.2g} (up to {TOLERANCE:g} is rounding)"
        )
