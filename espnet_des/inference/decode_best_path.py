"""Audio files to a folder with their texts, and with what could not be decoded."""

import logging
from pathlib import Path

import torch

from espnet_des.errors import ConfigError
from espnet_des.inference.best_path import BestPathDecoder
from espnet_des.inference.loading import load_model
from espnet_des.inference.transcribe import Transcript, transcribe
from espnet_des.nn.sizes import set_size
from espnet_des.utils.audio import find_audio
from espnet_des.utils.files import make_writable, write_lines

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
        make_writable(folder)
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


def tell_failed(failed: dict[str, str], number: int, where: Path) -> None:
    more = f"\n... and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    lines = "\n".join(f"{utt}: {why}" for utt, why in list(failed.items())[:NAMED])
    logging.error(
        f"{len(failed)} of {number} files could not be decoded (the list is {where}):\n"
        f"{lines}{more}"
    )
