"""Audio files to transcripts, in batches of similar length."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from espnet_des.inference.best_path import BestPathDecoder, Run
from espnet_des.inference.loading import load_model
from espnet_des.utils.audio import AudioError, read_header, read_mono, tell_conversions
from espnet_des.utils.processes import spawned
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


Batches = Iterable[dict[str, str]]  # each utterance id to path
# What each batch becomes, in their order.
DecodeBatches = Callable[[Batches], Iterable[list[Transcript]]]
A_JOB = 500  # utterances for which a process is started


def decode_files(
    decoder: BestPathDecoder,
    wavs: dict[str, str],
    batch_size: int,
    title: str,
    batches: DecodeBatches | None = None,
) -> dict[str, str]:
    """Decode files: utterance id to path gives utterance id to text.

    Raises:
        AudioError: where a file cannot be decoded.
    """
    texts = {}
    for done in transcribe(decoder, wavs, batch_size, title, batches):
        if done.error is not None:
            raise AudioError(f"utterance {done.utt}: {done.error}")
        texts[done.utt] = done.text
    return {utt: texts[utt] for utt in wavs}


def transcribe(
    decoder: BestPathDecoder,
    wavs: dict[str, str],
    batch_size: int,
    title: str,
    batches: DecodeBatches | None = None,
) -> Iterator[Transcript]:
    """Decode files in batches of similar length: padding costs as much as speech.

    Only one batch of audio is in memory at a time. Files of another rate are
    resampled and channels averaged, with one notice each.

    Args:
        decoder: the model.
        wavs: utterance id to path.
        batch_size: files that are decoded together.
        title: of the progress bar.
        batches: decodes them, see :func:`in_processes`; by default here, one by one.

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
        parts = [
            {utt: wavs[utt] for utt in order[first : first + batch_size]}
            for first in range(0, len(order), batch_size)
        ]
        if batches is None:
            batches = functools.partial(map, functools.partial(_transcribe_batch, decoder))
        for done in batches(parts):
            yield from done
            bar.update(len(done))


@contextlib.contextmanager
def in_processes(
    config: Path, model_file: Path, jobs: int, utterances: int
) -> Iterator[DecodeBatches | None]:
    """Processes that decode batches, each with the model; None where one is enough.

    Args:
        config, model_file: as :func:`load_model` takes them, of a model of one size.
        jobs: processes at most.
        utterances: that there are.
    """
    jobs = min(jobs, utterances // A_JOB)
    if jobs < 2:
        yield None
        return
    with spawned(jobs, begin=functools.partial(_Here.load, config, model_file)) as pool:
        yield functools.partial(pool.map, _Here.transcribe)


class _Here:
    """The decoder of a process of :func:`in_processes`."""

    decoder: BestPathDecoder

    @classmethod
    def load(cls, config: Path, model_file: Path) -> None:
        cls.decoder = BestPathDecoder(*load_model(config, model_file))

    @classmethod
    def transcribe(cls, wavs: dict[str, str]) -> list[Transcript]:
        return _transcribe_batch(cls.decoder, wavs)


def _transcribe_batch(decoder: BestPathDecoder, wavs: dict[str, str]) -> list[Transcript]:
    waves, done = {}, []
    for utt, path in wavs.items():
        try:
            waves[utt] = torch.from_numpy(read_mono(path, decoder.rate))
        except AudioError as error:
            done.append(Transcript(utt, error=str(error)))
    for utt, runs in zip(waves, _runs_or_errors(decoder, list(waves.values()))):
        if isinstance(runs, Exception):
            why = f"{type(runs).__name__}: {runs}"
            if "memory" in why:
                seconds = len(waves[utt]) / decoder.rate
                why = f"{seconds:.0f} s need too much memory, give it in pieces ({why})"
            done.append(Transcript(utt, error=f"{wavs[utt]}: {why}"))
        else:
            text, seconds = decoder.text(runs), len(waves[utt]) / decoder.rate
            done.append(Transcript(utt, text, runs, seconds))
    return done


def _runs_or_errors(decoder: BestPathDecoder, waves: list[torch.Tensor]) -> list:
    """Tokens of each wave; where decoding fails, of each alone, or its error."""
    try:
        return decoder.runs(waves)
    except RuntimeError as error:  # of torch, out of memory for example
        if len(waves) == 1:
            return [error]
    return [_runs_or_errors(decoder, [wave])[0] for wave in waves]
