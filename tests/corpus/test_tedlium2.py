"""TED-LIUM 2 and LibriSpeech as distributed, through their readers and data.sh."""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_des.corpus.kaldi import DataError, Utterance, read_table, write_data_dirs
from espnet_des.corpus.librispeech import prepare_librispeech
from espnet_des.corpus.tedlium2 import clean_text, prepare_tedlium2
from tests.make_corpora import LIBRISPEECH_SETS, make_librispeech

EGS2 = Path(__file__).parents[2] / "egs2"
TALK = "TalkA_2010"


def make_talk(folder, lines, seconds=10.0, rate=16000, talk=TALK):
    """A TED-LIUM whose dev and test are fine and whose train has these lines."""
    root = folder / "TEDLIUM_release2"
    fine = [f"{talk} 1 {talk} 1.00 2.00 <o,f0,male> fine words"]
    for name, content in (("train", lines), ("dev", fine), ("test", fine)):
        for kind in ("sph", "stm"):
            (root / name / kind).mkdir(parents=True, exist_ok=True)
        length = seconds if name == "train" else 10.0
        hertz = rate if name == "train" else 16000
        soundfile.write(root / name / "sph" / f"{talk}.sph", np.zeros(int(length * hertz)),
                        hertz, "PCM_16", format="NIST")  # fmt: skip
        raw = [x if isinstance(x, bytes) else x.encode() for x in content]
        (root / name / "stm" / f"{talk}.stm").write_bytes(b"\n".join(raw) + b"\n")
    return root


def line(begin, end, words, label="<o,f0,male>"):
    return f"{TALK} 1 {TALK} {begin} {end} {label} {words}"


def texts(folder, name="train"):
    return list(read_table(folder / "data" / name / "text").values())


@pytest.mark.parametrize(
    "words, cleaned",
    [
        ("it 's what we 're told", "it's what we're told"),
        ("they 'd 've gone , i don 't know", "they'd've gone , i don't know"),
        ("so <sil> to read(2) it", "so to read it"),
        ("{NOISE} a <unk> word", "[NOISE] a <unk> word"),
        ("the end (Talk-14.73-17.49-F0_M-S12)", "the end"),
        ("  two   spaces ", "two spaces"),
        ("<sil> (2)", ""),
    ],
)
def test_text_is_cleaned_as_in_espnets_recipe(words, cleaned):
    assert clean_text(words) == cleaned


def test_segments_have_ids_of_the_stm_times_and_only_training_is_padded(tmp_path, capsys):
    gap = f"{TALK} 1 inter_segment_gap 0 1.0 <o,,unknown> ignore_time_segment_in_scoring"
    make_talk(
        tmp_path,
        [
            ";; a comment",
            gap,
            line("1.00", "2.00", "it 's one"),
            line("2.10", "3.001", "two"),
            line("9.0", "10.2", "three"),
            "",
        ],
    )
    prepare_tedlium2(tmp_path, tmp_path / "data")
    train = tmp_path / "data/train"
    assert read_table(train / "text") == {
        f"{TALK}-0000100-0000200": "it's one",
        f"{TALK}-0000210-0000300": "two",
        f"{TALK}-0000900-0001019": "three",  # 10.2 * 100, cut off as awk does
    }
    # 0.15 s before and 0.1 s after; neighbours meet; the end is that of the audio.
    times = [row.split()[1:] for row in read_table(train / "segments").values()]
    wanted = [[0.85, 2.025], [2.025, 3.1], [8.85, 10.0]]
    assert np.allclose(np.array(times, float), wanted, atol=0.006)
    dev = tmp_path / "data/dev"
    assert read_table(dev / "segments") == {f"{TALK}-0000100-0000200": f"{TALK} 1.00 2.00"}
    audio = tmp_path / f"TEDLIUM_release2/dev/sph/{TALK}.sph"
    assert read_table(dev / "wav.scp") == {TALK: str(audio)}
    assert (
        set(read_table(dev / "utt2spk").values()) == set(read_table(dev / "spk2utt")) == {TALK}
    )
    assert "skipped" not in capsys.readouterr().err
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    prepare_tedlium2(tmp_path / "TEDLIUM_release2", tmp_path / "data")
    assert "train, dev, test are there already" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}


def test_ids_are_what_the_awk_of_espnets_recipe_makes_of_the_times(tmp_path):
    """It cuts the binary fraction: 1.15 s times 100 is a little less than 115."""
    times = [f"{2 * n + k / 100:.2f}" for n, k in enumerate(range(0, 100, 3))]
    ends = [f"{float(begin) + 1.29:.2f}" for begin in times]
    lines = [line(*pair, "word") for pair in zip(times, ends)]
    made = subprocess.run(
        ["awk", r'{ printf ("%s-%07d-%07d\n", $1, $4*100, $5*100) }'], check=True,
        input="\n".join(lines), capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    exact = [f"{TALK}-{round(float(b) * 100):07d}-{round(float(e) * 100):07d}"
             for b, e in zip(times, ends)]  # fmt: skip
    assert made != exact
    make_talk(tmp_path, lines, seconds=80.0)
    prepare_tedlium2(tmp_path, tmp_path / "data")
    assert list(read_table(tmp_path / "data/train/text")) == made


BAD_LINES = [
    (line("x", "2", "w"), "'x' is no time in seconds"),
    (line("nan", "2", "w"), "'nan' is no time in seconds"),
    (line("-1", "2", "w"), "'-1' is no time in seconds"),
    (line("3", "2", "w"), "the end, 2.0 s, is not after the begin, 3.0 s"),
    (line("2", "2", "w"), "the end, 2.0 s, is not after the begin, 2.0 s"),
    (line("8", "10.6", "w"), "8.0 to 10.6 s, but the audio ends at 10.0 s"),
    (line("10.1", "10.3", "w"), "10.1 to 10.3 s, but the audio ends at 10.0 s"),
    (line("1", "2", ""), "no words in ''"),
    (line("1", "2", "<sil>"), "no words in '<sil>'"),
    (line("1", "2", "w", label="no"), "'no' is no label like <o,f0,male>"),
    (f"{TALK} 1 {TALK}", "3 fields, not `file channel speaker begin end <label> words`"),
    (line("1", "2", "caf").encode() + b"\xe9", "the line is not UTF-8"),
    (line("4.00", "6.00", "again"), f"{TALK}-0000400-0000600 repeats"),
    (line("7.001", "7.002", "w"), "less than 0.01 s is left of 7.001 to 7.002 s"),
]


@pytest.mark.parametrize("bad, says", BAD_LINES, ids=[says for _, says in BAD_LINES])
def test_a_bad_line_is_named_counted_and_skipped(tmp_path, capsys, bad, says):
    root = make_talk(tmp_path, [line("4.00", "6.00", "good"), bad])
    prepare_tedlium2(tmp_path, tmp_path / "data", train_padding=(0.0, 0.0))
    assert texts(tmp_path) == ["good"]
    said = capsys.readouterr().err
    assert f"skipped {root}/train/stm/{TALK}.stm:2: {says}" in said
    assert "train: skipped 1 of 2 utterances" in said


def cut_short(path):
    path.write_bytes(path.read_bytes()[:40000])


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda sph: sph.write_bytes(b"no audio"), "cannot be read"),
        (lambda sph: sph.write_bytes(b""), "cannot be read"),
        (Path.unlink, f"{TALK}x.sph is missing: 2 utterances"),
        (lambda sph: soundfile.write(sph, np.zeros(80000), 8000, "PCM_16", format="NIST"),
         "has 8000 Hz, not 16000"),
        (lambda sph: soundfile.write(sph, np.zeros(0), 16000, "PCM_16", format="NIST"),
         "is empty"),
    ],
)  # fmt: skip
def test_a_bad_recording_is_named_and_its_utterances_are_skipped(
    tmp_path, capsys, damage, says
):
    other = f"{TALK}x"
    root = make_talk(tmp_path, [line(1, 2, "a"), line(3, 4, "b")], talk=TALK)
    stm = root / "train/stm" / f"{TALK}.stm"
    stm.with_name(f"{other}.stm").write_text(stm.read_text().replace(TALK, other))
    sph = root / "train/sph" / f"{other}.sph"
    sph.write_bytes((root / "train/sph" / f"{TALK}.sph").read_bytes())
    damage(sph)
    prepare_tedlium2(tmp_path, tmp_path / "data")
    assert set(read_table(tmp_path / "data/train/wav.scp")) == {TALK}
    said = capsys.readouterr().err
    assert f"skipped {sph}: " in said and says in said
    assert "train: skipped 2 of 4 utterances" in said


def test_what_a_truncated_recording_lacks_is_skipped(tmp_path, capsys):
    root = make_talk(tmp_path, [line(0.5, 1, "there"), line(3, 4, "gone")])
    cut_short(root / "train/sph" / f"{TALK}.sph")
    prepare_tedlium2(tmp_path, tmp_path / "data")
    assert texts(tmp_path) == ["there"]
    assert "3.0 to 4.0 s, but the audio ends at 1.21 s" in capsys.readouterr().err


def test_a_recording_without_a_transcript_is_named(tmp_path, capsys):
    root = make_talk(tmp_path, [line(1, 2, "a")])
    (root / "train/sph/Other.sph").write_bytes(b"")
    prepare_tedlium2(tmp_path, tmp_path / "data")
    assert "Other.sph: stm/Other.stm is missing" in capsys.readouterr().err


def test_nothing_is_written_where_a_part_is_missing_or_of_no_use(tmp_path):
    with pytest.raises(DataError, match=r"lacks train/sph.*openslr.org/19.*TEDLIUM2 in db.sh"):
        prepare_tedlium2(tmp_path / "nowhere", tmp_path / "data")
    root = make_talk(tmp_path, [line(1, 2, "a")])
    (root / "test/stm" / f"{TALK}.stm").write_text(line(5, 4, "turned") + "\n")
    with pytest.raises(DataError, match="data/test: no utterance is left to write"):
        prepare_tedlium2(tmp_path, tmp_path / "data")
    (root / "test/stm" / f"{TALK}.stm").unlink()
    with pytest.raises(DataError, match=r"test/stm holds no .stm file.*openslr.org/19"):
        prepare_tedlium2(tmp_path, tmp_path / "data")
    (root / "test/stm").rmdir()
    with pytest.raises(DataError, match="lacks test/stm"):
        prepare_tedlium2(tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_ids_that_kaldi_would_refuse_are_refused(tmp_path):
    for pairs in ([("b-1", "a")], [("a+b-1", "a+b"), ("a-1", "a")]):
        utts = [Utterance(utt, spk, "X", tmp_path / "x.wav") for utt, spk in pairs]
        with pytest.raises(DataError, match="not sorted by speaker"):
            write_data_dirs({tmp_path / "data": utts})
    assert not (tmp_path / "data").exists()


def test_a_flac_file_that_was_cut_off_is_skipped(tmp_path, capsys):
    root = make_librispeech(tmp_path)
    first = sorted((root / "dev-clean").rglob("*.flac"))[0]
    first.write_bytes(first.read_bytes()[:9000])
    prepare_librispeech(tmp_path, tmp_path / "data", ["dev-clean"])
    assert first.stem not in read_table(tmp_path / "data/dev_clean/text")
    said = capsys.readouterr().err
    assert f"{first.name} cannot be read" in said and "skipped 1 of 8" in said


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("the corpora"))


def generate(folder):
    """Both corpora, each by a fresh process: espeak-ng carries some state."""
    for name in ("librispeech", "tedlium2"):
        command = [sys.executable, "-m", "tests.make_corpora", name, str(folder)]
        subprocess.run(command, check=True, cwd=EGS2.parent)
    return folder


def link_recipe(folder, name):
    """A recipe's folder with a path.sh that, like ESPnet's, is not for set -u."""
    folder.mkdir()
    for part in ("local", "db.sh"):
        (folder / part).symlink_to(EGS2 / name / "asr1" / part)
    (folder / "path.sh").write_text(
        f'PATH="{Path(sys.executable).parent}:${{PATH}}:${{NOT_SET_ANYWHERE}}"\nexport PATH\n'
    )
    return folder


def data_sh(recipe, *arguments, **env):
    return subprocess.run([str(recipe / "local/data.sh"), *arguments], text=True,
                          env=os.environ | env, capture_output=True)  # fmt: skip


def validate(folder):
    """ESPnet's (Kaldi's) own check, where ESPNET_ROOT tells where it is."""
    template = Path(os.environ.get("ESPNET_ROOT", "nowhere")) / "egs2/TEMPLATE/asr1"
    if (template / "utils/validate_data_dir.sh").exists():
        # It does not take paths with spaces.
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            done = subprocess.run(["utils/validate_data_dir.sh", "--no-feats", copy],
                                  cwd=template, text=True, capture_output=True)  # fmt: skip
        assert "Successfully validated" in done.stdout, done.stdout + done.stderr


def test_librispeech_through_its_data_sh(corpora, tmp_path):
    recipe = link_recipe(tmp_path / "a recipe", "librispeech")
    done = data_sh(recipe, LIBRISPEECH=str(corpora))
    assert done.returncode == 0, done.stderr
    assert "openslr.org/11" in done.stdout
    sets = {name.replace("-", "_") for name in LIBRISPEECH_SETS}
    made = {p.name for p in (recipe / "data").iterdir() if p.name != "local"}
    assert made == sets | {"train_960", "dev"}
    count = {name: len(read_table(recipe / "data" / name / "text")) for name in made}
    assert count["train_960"] == 42 and count["dev"] == 16 and count["test_other"] == 8
    for name in made:
        validate(recipe / "data" / name)
    assert "are there already" in data_sh(recipe, LIBRISPEECH=str(corpora)).stdout
    # Fewer sets are noticed though data/train_960 is there.
    fewer = ("--train_sets", "train-clean-100 train-other-500")
    assert data_sh(recipe, *fewer, LIBRISPEECH=str(corpora)).returncode == 0
    assert len(read_table(recipe / "data/train_960/text")) == 28


def test_the_text_of_the_language_model_is_used_where_it_is(corpora, tmp_path):
    recipe = link_recipe(tmp_path / "recipe", "librispeech")
    (recipe / "downloads").mkdir()
    (recipe / "downloads/LibriSpeech").symlink_to(corpora / "LibriSpeech")
    packed = recipe / "downloads/librispeech-lm-norm.txt.gz"
    packed.write_bytes(gzip.compress(b"A BANK CHECK\nIT'S 100% HERE\n")[:-4])
    text = recipe / "data/local/other_text/text"
    broken = data_sh(recipe)
    assert broken.returncode != 0 and packed.name in broken.stderr and not text.exists()
    # ESPnet's stage 4 reads it in any case; it is empty where there is no archive, for now.
    packed.unlink()
    without = data_sh(recipe)
    assert "transcripts alone" in without.stdout and text.read_text() == ""
    packed.write_bytes(gzip.compress(b"A BANK CHECK\nIT'S 100% HERE\n"))
    done = data_sh(recipe)
    assert done.returncode == 0, done.stderr
    assert text.read_text() == (
        "librispeech_lng_00000001 A BANK CHECK\nlibrispeech_lng_00000002 IT'S 100% HERE\n"
    )


def test_the_librispeech_recipe_trains_its_language_model_on_that_text(tmp_path):
    """As ESPnet's does, beside the transcripts."""
    (tmp_path / "asr.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "asr.sh").chmod(0o755)
    recipe = shutil.copy(EGS2 / "librispeech/asr1/run.sh", tmp_path / "run.sh")
    done = subprocess.run([recipe], capture_output=True, text=True, check=True)
    options = done.stdout.splitlines()
    texts = options[options.index("--lm_train_text") + 1].split()
    assert texts == ["data/train_960/text", "data/local/other_text/text"]
    assert options[options.index("--bpe_train_text") + 1] == texts[0]


def test_tedlium2_through_its_data_sh(corpora, tmp_path):
    recipe = link_recipe(tmp_path / "a recipe", "tedlium2")
    done = data_sh(recipe, TEDLIUM2=str(corpora))
    assert done.returncode == 0 and "skipped" not in done.stderr, done.stderr
    for name, count in (("train", 40), ("dev", 8), ("test", 8)):
        folder = recipe / "data" / name
        text = read_table(folder / "text")
        assert len(text) == count and any("it's" in words for words in text.values())
        assert not any(" '" in words or "ignore" in words for words in text.values())
        validate(folder)
    assert "are there already" in data_sh(recipe, TEDLIUM2=str(corpora)).stdout


@pytest.mark.parametrize(
    "name, variable", [("librispeech", "LIBRISPEECH"), ("tedlium2", "TEDLIUM2")]
)
def test_data_sh_refuses_what_it_cannot_do(tmp_path, name, variable):
    recipe = link_recipe(tmp_path / "recipe", name)
    unknown = data_sh(recipe, "--remove_archive", "true")
    assert unknown.returncode == 2 and "unknown option --remove_archive" in unknown.stderr
    lacking = data_sh(recipe)
    assert lacking.returncode == 1 and "openslr.org" in lacking.stderr
    assert variable in lacking.stderr and not (recipe / "data").exists()
    (recipe / "db.sh").unlink()
    (recipe / "db.sh").write_text(f"{variable}=\n")
    empty = data_sh(recipe)
    assert empty.returncode == 2 and f"{variable} in db.sh is empty" in empty.stderr


def test_corpora_have_every_file_and_the_same_text_for_the_same_seed(corpora, tmp_path):
    root = generate(tmp_path) / "LibriSpeech"
    assert {p.name for p in root.iterdir() if p.is_dir()} == set(LIBRISPEECH_SETS)
    for name in ("SPEAKERS.TXT", "CHAPTERS.TXT", "BOOKS.TXT", "LICENSE.TXT"):
        assert (root / name).read_text()
    assert (tmp_path / "TEDLIUM_release2/TEDLIUM.152k.dic").read_text()
    assert (root / "SPEAKERS.TXT").read_text().count("|") == 15 * 4
    # Not the audio itself: breathy voices of espeak-ng take noise of their own.
    for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
        twin = corpora / path.relative_to(tmp_path)
        if path.suffix in (".flac", ".sph"):
            assert soundfile.info(path).frames == soundfile.info(twin).frames
        else:
            assert path.read_bytes() == twin.read_bytes()
    lengths = [soundfile.info(p).duration for p in root.rglob("*.flac")]
    assert min(lengths) > 0.8 and max(lengths) < 4.0
