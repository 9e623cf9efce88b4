"""Audio files to transcripts, in batches of similar length."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from espnet_des.inference.best_path import BestPathDecoder, Run
from espnet_des.utils.audio import AudioError, read_header, read_mono, tell_conversions
from espnet_des.utils.progress import progress


class Transcript(NamedTuple):
    """What became of one audio file.

    Attributes:
        utt: its id.
        text: what was recognised; empty for silence.
        runs: its tokens.
        seconds: length of the audio.
        error: why it could not be decoded; None where it was.
    """

    utt: str
    text: str = ""
    runs: Sequence[Run] = ()
    seconds: float = 0.0
    error: str | None = None


def decode_files(
    decoder: BestPathDecoder, wavs: dict[str, str], batch_size: int, title: str
) -> dict[str, str]:
    """Decode files: utterance id to path gives utterance id to text.

    Raises:
        AudioError: where a file cannot be decoded.
    """
    texts = {}
    for done in transcribe(decoder, wavs, batch_size, title):
        if done.error is not None:
            raise AudioError(f"utterance {done.utt}: {done.error}")
        texts[done.utt] = done.text
    return {utt: texts[utt] for utt in wavs}


def transcribe(
    decoder: BestPathDecoder, wavs: dict[str, str], batch_size: int, title: str
) -> Iterator[Transcript]:
    """Decode files in batches of similar length: padding costs as much as speech.

    Only one batch of audio is in memory at a time. Files of another rate are
    resampled and channels averaged, with one notice each.

    Args:
        decoder: the model.
        wavs: utterance id to path.
        batch_size: files that are decoded together.
        title: of the progress bar.

    Yields:
        A transcript of every file, longest first; with an error where a file
        could not be read or decoded, which leaves the others alone.
    """
    headers = {}
    with progress(total=len(wavs), desc=title, unit="utt") as bar:
        for utt, path in wavs.items():
            try:
                headers[utt] = read_header(path)
            except AudioError as error:
                bar.update()
                yield Transcript(utt, error=str(error))
        tell_conversions(headers.values(), decoder.rate)
        # The longest first: what memory is needed shows at once, and is used again.
        order = sorted(headers, key=lambda u: -headers[u].frames / headers[u].rate)
        for first in range(0, len(order), batch_size):
            utts = order[first : first + batch_size]
            yield from _transcribe_batch(decoder, {utt: wavs[utt] for utt in utts})
            bar.update(len(utts))


def _transcribe_batch(decoder: BestPathDecoder, wavs: dict[str, str]) -> Iterator[Transcript]:
    waves = {}
    for utt, path in wavs.items():
        try:
            waves[utt] = torch.from_numpy(read_mono(path, decoder.rate))
        except AudioError as error:
            yield Transcript(utt, error=str(error))
    for utt, runs in zip(waves, _runs_or_errors(decoder, list(waves.values()))):
        if isinstance(runs, Exception):
            why = f"{type(runs).__name__}: {runs}"
            if "memory" in why:
                seconds = len(waves[utt]) / decoder.rate
                why = f"{seconds:.0f} s need too much memory, give it in pieces ({why})"
            yield Transcript(utt, error=f"{wavs[utt]}: {why}")
        else:
            yield Transcript(utt, decoder.text(runs), runs, len(waves[utt]) / decoder.rate)


def _runs_or_errors(decoder: BestPathDecoder, waves: list[torch.Tensor]) -> list:
    """Tokens of each wave; where decoding fails, of each alone, or its error."""
    try:
        return decoder.runs(waves)
    except RuntimeError as error:  # of torch, out of memory for example
        if len(waves) == 1:
            return [error]
    return [_runs_or_errors(decoder, [wave])[0] for wave in waves]
