"""CTC best-path decoding, batched: the most probable token of every frame.

Repetitions are merged and blanks dropped. This is not a beam search with
``ctc_weight: 1.0``; it is much faster and has no language model.
"""

import argparse
import functools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet_des.errors import ConfigError
from espnet_des.espnet_api import without_exits
from espnet_des.inference.loading import load_model
from espnet_des.inference.named_files import check_tokenizer
from espnet_des.nn.losses import CTC_BLANK
from espnet_des.nn.sizes import set_size
from espnet_des.nn.waveforms import (
    can_have_speech,
    mirror_ends,
    mirrored_samples,
    sampling_rate,
    sees_padding,
)
from espnet_des.utils.audio import (
    AudioError,
    check_finite,
    check_shape,
    find_audio,
    read_header,
    read_mono,
    tell_conversions,
)
from espnet_des.utils.files import write_atomically
from espnet_des.utils.progress import progress


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


TEXT, TIMES, FAILED = "text", "token.ctm", "failed"
NAMED = 20  # failed files that are shown; all are in the list


def decode_best_path(
    asr_train_config: Path,
    asr_model_file: Path,
    input: Path,
    output_dir: Path,
    size: int | None = None,
    token_times: bool = False,
    batch_size: int = 16,
    device: str = "cpu",
) -> dict[str, str]:
    """Decode audio files; write ``text`` and, if asked, ``token.ctm``.

    ``text`` has ``utt text`` lines in the order of the input. ``token.ctm`` has
    NIST's columns, ``utt channel start duration token confidence``, in seconds;
    :class:`TimedToken` says what they mean. Files that could not be decoded are
    in neither, but in ``failed`` (``utt reason`` lines). Each of the three is
    written whole; one of an earlier run that this one has not is removed.

    Args:
        asr_train_config: ``config.yaml`` of a supernet, an extracted size, or a
            stock model with a CTC output layer.
        asr_model_file: its parameters.
        input: see :func:`find_audio`.
        output_dir: where the files go.
        size: number of layers; by default all of them.
        token_times: write ``token.ctm``.
        batch_size: utterances that are decoded together.
        device: as torch names it.

    Returns:
        Why files could not be decoded, by utterance id.

    Raises:
        ConfigError, AudioError, OSError: where decoding cannot start. Nothing
            has been written then.
    """
    check_no_data(output_dir)
    if batch_size < 1:
        raise ConfigError(f"batch_size: {batch_size} must be at least 1")
    check_device(device)
    wavs = find_audio(input)
    model, train_args = load_model(asr_train_config, asr_model_file, device)
    set_size(model, size)
    decoder = BestPathDecoder(model, train_args)
    check_writable(output_dir)
    done = {t.utt: t for t in transcribe(decoder, wavs, batch_size, "CTC best path")}
    # In the order of the input.
    results = [done[utt] for utt in wavs]
    failed = {t.utt: t.error for t in results if t.error is not None}
    decoded = [t for t in results if t.error is None]
    write_lines(output_dir / TEXT, [f"{t.utt} {t.text}".rstrip() for t in decoded])
    write_lines(output_dir / TIMES, ctm_lines(decoder, decoded) if token_times else None)
    # Torch's reasons, and odd paths, can have several lines.
    reasons = [f"{utt} {' '.join(why.splitlines())}" for utt, why in failed.items()]
    write_lines(output_dir / FAILED, reasons or None)
    if failed:
        tell_failed(failed, len(wavs), output_dir / FAILED)
    return failed


def check_device(device: str) -> None:
    """Raise ConfigError where torch cannot use a device."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device: {device!r} cannot be used here ({str(error).splitlines()[0]}); "
            "cpu always can, cuda where torch finds a GPU"
        ) from error


def check_no_data(folder: Path) -> None:
    """Raise ConfigError for a data directory (its ``text`` are the references), or a training."""
    found = [n for n in ("utt2spk", "wav.scp", "checkpoint.pth") if (folder / n).exists()]
    if found:
        raise ConfigError(
            f"output_dir: {folder} has a {found[0]}: it is not a place for decoded text; give "
            "a folder of its own"
        )


def check_writable(folder: Path) -> None:
    """Make a folder, and raise OSError now rather than after the decoding."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        taken = [name for name in (TEXT, TIMES, FAILED) if (folder / name).is_dir()]
    except OSError as error:
        raise OSError(f"output_dir: {folder} cannot be written ({error})") from error
    if taken:
        raise OSError(f"output_dir: {folder / taken[0]} is a folder; a file is to go there")


def ctm_lines(decoder: BestPathDecoder, transcripts: list[Transcript]) -> list[str]:
    """Token times as NIST's CTM; the channel is always 1."""
    return [
        f"{t.utt} 1 {start:.3f} {duration:.3f} {token} {confidence:.3f}"
        for t in transcripts
        for token, start, duration, confidence in decoder.times(t.runs, t.seconds)
    ]


def write_lines(path: Path, lines: list[str] | None) -> None:
    """Write a file whole, or remove it where there are no lines to be (None)."""
    if lines is None:
        path.unlink(missing_ok=True)
    else:
        text = "".join(f"{line}\n" for line in lines)
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def tell_failed(failed: dict[str, str], number: int, where: Path) -> None:
    more = f"\n... and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    lines = "\n".join(f"{utt}: {why}" for utt, why in list(failed.items())[:NAMED])
    logging.error(
        f"{len(failed)} of {number} files could not be decoded (the list is {where}):\n"
        f"{lines}{more}"
    )
