"""Stages 1 to 5: corpus, formatting, filtering, token list."""

import argparse
import functools
import shlex
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import soxr

from espnet_des.corpus.kaldi import read_rows, read_table, write_table
from espnet_des.recipe.layout import Layout
from espnet_des.recipe.process import StageError, run_logged, say
from espnet_des.utils.audio import COMMAND, read_header, read_mono, write_audio
from espnet_des.utils.processes import lifeline, spawned
from espnet_des.utils.progress import progress

A_JOB = 2000  # utterances for which stage 3 starts a process


def prepare(o: argparse.Namespace, at: Layout) -> None:
    """Stage 1: the recipe's own local/data.sh."""
    script = Path("local/data.sh")
    if not script.exists():
        raise StageError(f"{script.resolve()} is missing: run this in a recipe's folder")
    code = subprocess.call([str(script), *shlex.split(o.local_data_opts)], **lifeline())
    if code:
        raise StageError(f"{script} failed (exit {code}); its message is above")


def perturb(o: argparse.Namespace, at: Layout) -> None:
    """Stage 2: the training set at several speeds, as data/<train_set>_sp.

    Nothing is resampled yet: ``rec2speed`` tells stage 3 to.
    """
    if not o.speed_perturb_factors:
        return say("Skip stage 2: no --speed_perturb_factors")
    source, target = at.data / o.unperturbed_set, at.data / o.train_set
    names = ["wav.scp", "text", "utt2spk"]
    names += ["segments"] if (source / "segments").exists() else []
    tables = {name: read_table(source / name) for name in names}
    out: dict[str, dict[str, str]] = {name: {} for name in [*names, "rec2speed"]}
    for factor in dict.fromkeys(float(f) for f in o.speed_perturb_factors.split()):
        prefix = "" if factor == 1.0 else f"sp{factor:g}-"
        for name, table in tables.items():
            for key, value in table.items():
                if name == "utt2spk":
                    value = prefix + value
                elif name == "segments":
                    recording, *times = parse_segment(key, value, source)
                    scaled = (f"{t / factor:.3f}" for t in times)
                    value = " ".join([prefix + recording, *scaled])
                elif name == "wav.scp":
                    out["rec2speed"][prefix + key] = f"{factor:g}"
                out[name][prefix + key] = value
    out["spk2utt"] = speakers_to_utterances(out["utt2spk"])
    target.mkdir(parents=True, exist_ok=True)
    for name, table in out.items():
        write_table(target / name, table)
    say(f"{target}: {len(out['text'])} utterances")


def parse_segment(utt: str, row: str, folder: Path) -> tuple[str, float, float]:
    """Recording, begin and end in seconds, of a line of ``segments``."""
    try:
        recording, begin, end = row.split()
        if 0 <= float(begin) < float(end) < float("inf"):
            return recording, float(begin), float(end)
    except ValueError:
        pass
    raise StageError(
        f"{folder}/segments: {utt} {row!r} must be 'utt recording begin end', in seconds, the "
        "end after the begin"
    )


def check_same(utts: Collection[str], table: Path) -> None:
    """Refuse a table that is not of these utterances."""
    other = read_table(table).keys()
    for which, ids in (("lacks", set(utts) - other), ("has besides", other - set(utts))):
        if ids:
            raise StageError(
                f"{table} {which} {len(ids)} utterances, such as {min(ids)}: the tables of a "
                "folder must be of the same ones (segments, or else wav.scp, says which)"
            )


def speakers_to_utterances(utt2spk: dict[str, str]) -> dict[str, str]:
    speakers: dict[str, list[str]] = {}
    for utt, spk in utt2spk.items():
        speakers.setdefault(spk, []).append(utt)
    return {spk: " ".join(sorted(utts)) for spk, utts in speakers.items()}


def sets(o: argparse.Namespace) -> dict[str, str]:
    """All sets to the folder, below dump/raw, where stage 3 leaves them."""
    found = {name: name for name in o.test_sets.split()}
    return found | {o.train_set: f"org/{o.train_set}", o.valid_set: f"org/{o.valid_set}"}


def format_audio(o: argparse.Namespace, at: Layout) -> None:
    """Stage 3: one readable file per utterance, at the rate of the model."""
    for name, place in sets(o).items():
        source, target = at.data / name, at.feats / place
        if not (source / "wav.scp").exists():
            raise StageError(f"{source}/wav.scp is missing: run stage 1 first")
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        wavs, samples = _format_set(source, target, partial, o)
        for table in ("text", "utt2spk", "spk2utt"):
            shutil.copy(source / table, partial / table)
        write_table(partial / "wav.scp", wavs)
        write_table(partial / "utt2num_samples", samples)
        (partial / "feats_type").write_text("raw\n")
        (partial / "audio_format").write_text(f"{o.audio_format}\n")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)


class Piece(NamedTuple):
    """An utterance that stage 3 is to make readable.

    Attributes:
        utt: its id.
        path: of the recording.
        begin, end: in seconds after the change of speed; None for all of it.
        speed: how many times as fast it is to be.
    """

    utt: str
    path: Path
    begin: float | None
    end: float | None
    speed: float


def _format_set(source: Path, target: Path, partial: Path, o: argparse.Namespace):
    pieces = _pieces_of(source)
    make = functools.partial(_format, source, target, partial, o.sample_rate, o.audio_format)
    bar = functools.partial(
        progress, total=len(pieces), desc=f"formatting {source.name}", unit="utt"
    )
    # A process is worth its start from some thousands on.
    jobs = min(o.nj, -(-len(pieces) // A_JOB))
    if jobs == 1:
        made = list(bar(map(make, pieces)))
    else:
        with spawned(jobs) as pool:
            made = list(bar(pool.map(make, pieces, chunksize=100)))
    return {utt: path for utt, path, _ in made}, {utt: str(n) for utt, _, n in made}


def _pieces_of(source: Path) -> list[Piece]:
    """Those of a data directory, checked as far as its tables tell."""
    recordings = read_table(source / "wav.scp")
    speed_file, segments = source / "rec2speed", source / "segments"
    speeds = read_table(speed_file) if speed_file.exists() else {}
    places: dict[str, tuple[str, float | None, float | None]]
    places = {utt: (utt, None, None) for utt in recordings}
    if segments.exists():
        rows = read_table(segments)
        places = {utt: parse_segment(utt, row, source) for utt, row in rows.items()}
    if not places:
        raise StageError(f"{source}: names no utterance; its wav.scp must have one a line")
    for table in ("text", "utt2spk"):
        check_same(places, source / table)
    pieces = []
    for utt, (recording, begin, end) in places.items():
        if utt.startswith("/") or ".." in Path(utt).parts:
            raise StageError(
                f"{source}: utterance {utt} cannot be the name of a file; rename it"
            )
        if recording not in recordings:
            raise StageError(
                f"{source}/wav.scp lacks recording {recording} of utterance {utt}"
            )
        if COMMAND.search(recordings[recording]):
            raise StageError(
                f"{source}/wav.scp: {recording}: {recordings[recording]!r} is a command; only "
                "audio is read: run it once, and name the file that it makes"
            )
        speed = float(speeds.get(recording, 1.0))
        pieces.append(Piece(utt, Path(recordings[recording]), begin, end, speed))
    return pieces


def _format(
    source: Path, target: Path, partial: Path, rate: int, audio_format: str, piece: Piece
) -> tuple[str, str, int]:
    """Write a piece below ``partial``, unless it can be read as it is.

    Returns:
        Its id, where it is once ``partial`` has become ``target``, and its samples.
    """
    utt, path, begin, end, speed = piece
    header = read_header(str(path))
    is_ready = begin is None and (header.rate, header.channels) == (rate, 1)
    if is_ready and speed == 1.0 and path.suffix in (".flac", ".wav"):
        return utt, str(path), header.frames
    first, last = 0, header.frames
    if begin is not None and end is not None:
        first, last = (round(t * speed * header.rate) for t in (begin, end))
    if begin is not None and first >= header.frames:
        seconds = header.frames / header.rate / speed
        raise StageError(
            f"{source}/segments: {utt} begins at {begin} s, but {path} ends at {seconds:.2f} s"
        )
    wave = read_mono(str(path), header.rate, first, last)
    if header.rate * speed != rate:
        wave = soxr.resample(wave, header.rate * speed, rate)
    name = Path("data") / f"{utt}.{audio_format}"
    write_audio(partial / name, wave, rate)
    return utt, str(target / name), len(wave)


def filter_length(o: argparse.Namespace, at: Layout) -> None:
    """Stage 4: drop what is too short, too long or without words."""
    shortest = int(o.min_wav_duration * o.sample_rate)
    longest = int(o.max_wav_duration * o.sample_rate)
    for name in (o.train_set, o.valid_set):
        source, target = at.feats / "org" / name, at.feats / name
        texts, samples = read_table(source / "text"), read_table(source / "utt2num_samples")
        keep = [u for u, n in samples.items() if shortest < int(n) < longest and texts.get(u)]
        if not keep:
            raise StageError(
                f"{source}: none of {len(samples)} utterances lies between "
                f"--min_wav_duration {o.min_wav_duration} and --max_wav_duration "
                f"{o.max_wav_duration} seconds and has words"
            )
        say(f"{name}: dropped {len(samples) - len(keep)} of {len(samples)} utterances "
            "(too short, too long or without words)")  # fmt: skip
        target.mkdir(parents=True, exist_ok=True)
        for table in ("text", "utt2spk", "wav.scp", "utt2num_samples"):
            rows = read_table(source / table)
            write_table(target / table, {u: rows[u] for u in keep})
        speakers = speakers_to_utterances(read_table(target / "utt2spk"))
        write_table(target / "spk2utt", speakers)
        for table in ("feats_type", "audio_format"):
            shutil.copy(source / table, target / table)
    lm_texts = (o.lm_train_text or f"{at.feats / 'org' / o.train_set / 'text'}").split()
    with at.lm_train.open("w", encoding="utf-8") as out:
        for text in lm_texts:  # LibriSpeech's for language models has 40 million lines
            out.writelines(f"{u} {words}\n" for u, words in read_rows(Path(text)) if words)


def make_tokens(o: argparse.Namespace, at: Layout) -> None:
    """Stage 5: token list of characters, words or BPE units."""
    at.token_list.parent.mkdir(parents=True, exist_ok=True)
    if o.token_type == "bpe":
        return _make_bpe(o, at)
    text = at.feats / "lm_train.txt"
    if not text.exists():
        raise StageError(f"{text} is missing: run stage 4 first")
    run_logged(
        [
            *shlex.split(o.python), "-m", "espnet2.bin.tokenize_text",
            "--token_type", o.token_type, "--input", str(text), "--output", str(at.token_list),
            "--non_linguistic_symbols", o.nlsyms_txt, "--field", "2-", "--cleaner", o.cleaner,
            "--g2p", o.g2p, "--write_vocabulary", "true", "--add_symbol", f"{o.blank}:0",
            "--add_symbol", f"{o.oov}:1", "--add_symbol", f"{o.sos_eos}:-1",
        ],
        at.token_list.with_name("tokenize.log"),
    )  # fmt: skip


def symbols(given: str) -> str:
    """Symbols with commas between them, or of a file's lines each the first word, as in ESPnet."""
    if not Path(given).is_file():
        return given
    rows = (line.split() for line in Path(given).read_text(encoding="utf-8").splitlines())
    return ",".join(row[0] for row in rows if row)


def _make_bpe(o: argparse.Namespace, at: Layout) -> None:
    import sentencepiece

    at.bpe_prefix.parent.mkdir(parents=True, exist_ok=True)
    texts = (o.bpe_train_text or f"{at.feats / 'org' / o.train_set / 'text'}").split()
    lines = [words for text in texts for words in read_table(Path(text)).values() if words]
    train = at.bpe_prefix.with_name("train.txt")
    train.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=str(train), vocab_size=o.nbpe, model_type=o.bpemode,
            model_prefix=str(at.bpe_prefix), character_coverage=o.bpe_char_cover,
            input_sentence_size=o.bpe_input_sentence_size, minloglevel=1,
            user_defined_symbols=symbols(o.bpe_nlsyms),
        )  # fmt: skip
    except RuntimeError as error:
        raise StageError(f"--nbpe {o.nbpe}: sentencepiece refuses: {error}") from error
    vocabulary = at.bpe_prefix.with_suffix(".vocab").read_text(encoding="utf-8")
    # The first three are <unk>, <s> and </s>, which ESPnet names itself.
    units = [line.split("\t")[0] for line in vocabulary.splitlines()][3:]
    tokens = [o.blank, o.oov, *units, o.sos_eos]
    at.token_list.write_text("".join(f"{t}\n" for t in tokens), encoding="utf-8")
