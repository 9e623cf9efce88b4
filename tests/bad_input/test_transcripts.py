"""Transcripts and tables that are damaged: lines are named and skipped, or nothing is written."""

import argparse
import os
import re

import numpy as np
import pytest
import soundfile

from espnet_des.corpus.kaldi import DataError, read_table
from espnet_des.corpus.librispeech import prepare_librispeech
from espnet_des.corpus.tedlium2 import prepare_tedlium2
from espnet_des.errors import ConfigError
from espnet_des.recipe import data, driver
from espnet_des.recipe.driver import main as run_stages
from espnet_des.recipe.jobs import run_in_parts
from espnet_des.recipe.process import StageError
from espnet_des.utils.audio import AudioError

TALK = "TalkA_2010"
GOOD = f"{TALK} 1 {TALK} 4.00 6.00 <o,f0,male> good\n".encode()
BOM = b"\xef\xbb\xbf"


def line(begin, end, words, label="<o,f0,male>", talk=TALK) -> bytes:
    return f"{talk} 1 {talk} {begin} {end} {label} {words}\n".encode()


@pytest.fixture(scope="session")
def tedlium(tmp_path_factory):
    """Ten seconds in each set."""
    folder = tmp_path_factory.mktemp("tedlium")
    for name in ("train", "dev", "test"):
        for kind in ("sph", "stm"):
            (folder / name / kind).mkdir(parents=True)
        soundfile.write(folder / name / f"sph/{TALK}.sph", np.zeros(160000), 16000, "PCM_16",
                        format="NIST")  # fmt: skip
        (folder / name / f"stm/{TALK}.stm").write_bytes(GOOD)
    return folder


@pytest.fixture(scope="session")
def librispeech(tmp_path_factory):
    """One chapter of three utterances."""
    folder = tmp_path_factory.mktemp("librispeech")
    (folder / "dev/7/70").mkdir(parents=True)
    for u in range(3):
        soundfile.write(folder / f"dev/7/70/7-70-000{u}.flac", np.zeros(1600), 16000)
    return folder


# Content of the STM file; the texts; what is said of the rest.
STM = [
    (BOM + GOOD, ["good"], ""),
    (GOOD.replace(b"\n", b"\r\n"), ["good"], ""),
    (GOOD.replace(b"\n", b"\r"), ["good"], ""),
    (GOOD.removesuffix(b"\n"), ["good"], ""),
    (b"\n \n" + GOOD + b"\t\n;; comment\n", ["good"], ""),
    (GOOD.replace(b" ", b"\t"), ["good"], ""),
    (GOOD + line("1_0", "2_0", "w"), ["good"], "10.0 to 20.0 s, but the audio ends at 10.0 s"),
    (GOOD + line("1e400", "2", "w"), ["good"], "'1e400' is no time in seconds"),
    (
        GOOD + line("1", "1e308", "w"),
        ["good"],
        "1.0 to 1e.308 s, but the audio ends at 10.0 s",
    ),
    (GOOD + line("1,5", "2", "w"), ["good"], "'1,5' is no time in seconds"),
    (GOOD + line(1, 2, "wo\0rd"), ["good"], ":2: the line has bytes that are zero"),
    (GOOD + bytes(4096), ["good"], ":2: the line has bytes that are zero"),
    (
        GOOD + line(1, 2, "a").decode().encode("utf-16"),
        ["good"],
        "bytes that are zero|not UTF-8",
    ),
    (
        GOOD + line(1, 2, "caf").replace(b"\n", b"\xe9\n"),
        ["good"],
        ":2: the line is not UTF-8",
    ),
    (GOOD + line(1, 2, "\ud7ff\ufffd \U0010ffff"), ["\ud7ff\ufffd \U0010ffff", "good"], ""),
    (GOOD + line(1, 2, "a\u2028b\x1cc\u00a0d"), ["a b c d", "good"], ""),
    (GOOD + line(1, 2, "   "), ["good"], ":2: no words in ''"),
    (GOOD + line(1, 2, "(2) <sil> (Talk-1.00-2.00)"), ["good"], ":2: no words in"),
    (GOOD + line(1, 2, "<unk>"), ["<unk>", "good"], ""),
    (GOOD + line(1, 2, "w " * 200000), [("w " * 200000).strip(), "good"], ""),
    (GOOD + b"x" * 1000000 + b"\n", ["good"], ":2: 1 fields, not `file channel"),
    (GOOD + line(1, 2, "w", talk="Other"), ["good"], "Other.sph is missing: 1 utterances"),
    (
        GOOD + line(1, 2, "w", talk="../sph"),
        ["good"],
        ":2: '../sph' is no name of a recording",
    ),
    (GOOD + line(1, 2, "w", talk="/"), ["good"], ":2: '/' is no name of a recording in sph/"),
    (GOOD + line(0, 3, "Ignore_Time_Segment_In_Scoring"), ["good"], ""),
]


@pytest.mark.parametrize("content, texts, says", STM, ids=[repr(s[0][-40:]) for s in STM])
def test_stm_files(tedlium, tmp_path, capsys, content, texts, says):
    path = tedlium / f"train/stm/{TALK}.stm"
    path.write_bytes(content)
    prepare_tedlium2(tedlium, tmp_path / "data")
    found = read_table(tmp_path / "data/train/text")
    assert list(found.values()) == texts
    assert all(re.fullmatch(rf"{TALK}-\d{{7}}-\d{{7}}", utt) for utt in found)
    said = capsys.readouterr().err
    if says:
        assert re.search(says, said) and re.search("skipped [12] of", said)
    else:
        assert "skipped" not in said


@pytest.mark.parametrize("content, says", [
    (b"", ""),
    (BOM + b"\xff\xfe\n" * 3, "stm:1: the line is not UTF-8.*skipped 3 of 3"),
    (bytes(100), "stm:1: the line has bytes that are zero.*skipped 1 of 1"),
    (line(1, 2, "w", talk=f"{TALK}+x"), "is missing.*skipped 1 of 1"),
])  # fmt: skip
def test_stm_files_of_which_nothing_is_left(tedlium, tmp_path, capsys, content, says):
    (tedlium / f"train/stm/{TALK}.stm").write_bytes(content)
    with pytest.raises(DataError, match="train: no utterance is left to write"):
        prepare_tedlium2(tedlium, tmp_path / "data")
    assert os.listdir(tmp_path) == []
    said = capsys.readouterr().err
    assert re.search(says, said, re.DOTALL) if content else "skipped" not in said


# Content of 7-70.trans.txt; the texts; what is said of the rest.
TRANS = [
    (BOM + b"7-70-0000 A B\n", ["A B"], ""),
    (b"7-70-0000 A B\r\n7-70-0001 C\r\n", ["A B", "C"], ""),
    (b"\n7-70-0000 A\n\n \n7-70-0001 B\n\n", ["A", "B"], ""),
    (b"7-70-0000   A  \t B  \n", ["A B"], ""),
    (b"7-70-0000 A\n7-70-0001    \n", ["A"], "7-70-0001: the transcript is empty"),
    (b"7-70-0000 A\n7-70-0001\tB\n", ["A"], "7-70-0001\tB: .*missing|the transcript is empty"),
    (b"7-70-0000 A\n7-70-0009 B\n", ["A"], "7-70-0009.flac is missing"),
    (b"7-70-0000 A\n7-70-../x B\n", ["A"], "is missing"),
    (b"7-70-0000 A\n7-70-00\x0001 B\n", ["A"], "the line has bytes that are zero"),
    (b"7-70-0000 A\n7-70-0001 B\0\n", ["A"], "7-70-0001: the line has bytes that are zero"),
    (b"7-70-0000 A\n7-70-0001 B\xff\n", ["A"], "7-70-0001: the line is not UTF-8"),
    (b"7-70-0000 A\n70-7-0001 B\n", ["A"], "70-7-0001: the id does not belong to 7-70"),
    (b"7-70-0000 A\n7-70-0001-2 B\n", ["A"], "the id does not belong to 7-70"),
    (b"7-70-0000 " + b"W " * 100000 + b"\n", [("W " * 100000).strip()], ""),
]


@pytest.mark.parametrize("content, texts, says", TRANS, ids=[repr(t[0][-40:]) for t in TRANS])
def test_transcripts_of_a_chapter(librispeech, tmp_path, capsys, content, texts, says):
    (librispeech / "dev/7/70/7-70.trans.txt").write_bytes(content)
    prepare_librispeech(librispeech, tmp_path / "data", ["dev"])
    assert list(read_table(tmp_path / "data/dev/text").values()) == texts
    said = capsys.readouterr().err
    assert re.search(says, said) if says else "skipped" not in said
    assert not says or "skipped 1 of 2 utterances" in said


@pytest.mark.parametrize("content", [b"7-70-0000 A\n7-70-0000 B\n", b"\xff\n", b""])
def test_chapters_that_cannot_be_kept(librispeech, tmp_path, capsys, content):
    (librispeech / "dev/7/70/7-70.trans.txt").write_bytes(content)
    with pytest.raises(DataError, match="7-70-0000 occurs twice|no utterance is left"):
        prepare_librispeech(librispeech, tmp_path / "data", ["dev"])
    assert os.listdir(tmp_path) == []


def test_the_list_of_speakers_is_read_for_what_it_tells(librispeech, tmp_path):
    """Readers' names are in any encoding; a sex is m or f, or not known."""
    (librispeech / "dev/7/70/7-70.trans.txt").write_bytes(b"7-70-0000 A\n")
    for content, sexes in (
        (b"7 | F | dev | 1 | Ren\xe9e\n", {"7-70": "f"}),
        (b"7|?|\n", None),
    ):
        (librispeech / "SPEAKERS.TXT").write_bytes(content)
        prepare_librispeech(librispeech, tmp_path / "data", ["dev"])
        path = tmp_path / "data/dev/spk2gender"
        assert (read_table(path) if path.exists() else None) == sexes
        (tmp_path / "data/dev/text").unlink()  # made anew


def test_a_folder_that_is_not_utf8_is_refused(librispeech, tmp_path):
    """wav.scp could not name it: it would be left half-written."""
    (librispeech / "dev/7/70/7-70.trans.txt").write_bytes(b"7-70-0000 A\n")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    (tmp_path / "link").mkdir()
    os.rename(tmp_path / "link", odd)
    place = tmp_path.__class__(odd) / "dev/7/70"
    place.mkdir(parents=True)
    for file in (librispeech / "dev/7/70").iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"caf\\udce9' cannot be written to wav.scp"):
        prepare_librispeech(tmp_path.__class__(odd), tmp_path / "data", ["dev"])
    assert not (tmp_path / "data").exists()


# Content of a table; what is in it, or what is said.
TABLES = [
    (b"a 1\nb\n", {"a": "1", "b": ""}),
    (BOM + b"a 1\r\nb 2\r\n", {"a": "1", "b": "2"}),
    (b"a\t1  2 \n", {"a": "1  2"}),
    ("a 1\u2028b 2\n".encode(), {"a": "1\u2028b 2"}),
    (b"", {}),
    (b"a 1\na 2\n", "table:2: the key is repeated"),
    (b"a 1\n\nb 2\n", "table:2: the key is empty"),
    (b"a 1\nb \xff\n", "table is not UTF-8 .*; convert it"),
]


@pytest.mark.parametrize("content, expected", TABLES, ids=[repr(t[0]) for t in TABLES])
def test_tables(tmp_path, content, expected):
    (tmp_path / "table").write_bytes(content)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            read_table(tmp_path / "table")
    else:
        assert read_table(tmp_path / "table") == expected


def write_set(folder):
    """Two recordings and four segments of them."""
    folder.mkdir(parents=True)
    for name in "ab":
        soundfile.write(folder / f"{name}.wav", np.zeros(32000), 16000)
    utts = [f"{name}-{i}" for name in "ab" for i in range(2)]
    (folder / "wav.scp").write_text("".join(f"{n} {folder}/{n}.wav\n" for n in "ab"))
    (folder / "segments").write_text("".join(f"{u} {u[0]} {u[2]}.0 {u[2]}.5\n" for u in utts))
    (folder / "text").write_text("".join(f"{u} W\n" for u in utts))
    (folder / "utt2spk").write_text("".join(f"{u} {u[0]}\n" for u in utts))
    (folder / "spk2utt").write_text("a a-0 a-1\nb b-0 b-1\n")


def stage_3(folder, **options):
    o = {"train_set": "train", "valid_set": "train", "test_sets": "", "sample_rate": 16000, "nj": 1,
         "audio_format": "flac"}  # fmt: skip
    at = argparse.Namespace(data=folder / "data", feats=folder / "dump")
    data.format_audio(argparse.Namespace(**o | options), at)
    return read_table(folder / "dump/org/train/wav.scp")


# Table, its new content, and what stage 3 says.
STAGE_3 = [
    ("segments", b"a-0 a\n", "segments: a-0 'a' must be 'utt recording begin end', in seconds"),
    ("segments", b"a-0 a 2 1\n", "segments: a-0 'a 2 1' must be .* the end after the begin"),
    ("segments", b"a-0 a nan 1\n", "segments: a-0 'a nan 1' must be"),
    ("segments", b"a-0 a 0 1\na-1 c 0 1\nb-0 b 0 1\nb-1 b 1 2\n", "lacks recording c of .* a-1"),
    ("segments", b"a-0 a 0 1\na-1 a 5 6\nb-0 b 0 1\nb-1 b 1 2\n",
     "segments: a-1 begins at 5.0 s, but .*a.wav ends at 2.00 s"),
    ("text", b"a-0 W\nb-0 W\nb-1 W\n", "text lacks 1 utterances, such as a-1"),
    ("text", b"a-0 W\na-1\nb-0 W\nb-1 W\nc-1 W\n", "text has besides 1 utterances, such as c-1"),
    ("text", b"a-0 W\xff\n", "text is not UTF-8"),
    ("utt2spk", b"a-0 a\na-1 a\n", "utt2spk lacks 2 utterances, such as b-0"),
    ("wav.scp", b"a sox a.sph -t wav - |\nb b.wav\n", "a: .sox a.sph .* is a command; only"),
    ("a.wav", b"no audio", "a.wav: cannot be read as audio"),
    ("segments", b"", "train: names no utterance"),
    ("segments", b"../a-0 a 0 1\n", "text lacks 1 utterances, such as ../a-0"),
]  # fmt: skip


@pytest.mark.parametrize("table, content, says", STAGE_3)
def test_stage_3_names_what_is_wrong_and_leaves_no_half_set(tmp_path, table, content, says):
    write_set(tmp_path / "data/train")
    (tmp_path / "data/train" / table).write_bytes(content)
    with pytest.raises((StageError, DataError, AudioError), match=says):
        stage_3(tmp_path)
    assert not (tmp_path / "dump/org/train").exists()


def rename_utterance(folder, old, new):
    for name in ("segments", "text", "utt2spk", "spk2utt"):
        table = folder / name
        table.write_text(table.read_text().replace(old, new))


def test_ids_with_a_slash_stay_below_the_set(tmp_path):
    write_set(tmp_path / "data/train")
    rename_utterance(tmp_path / "data/train", "a-0", "talk/a-0")
    made = stage_3(tmp_path)["talk/a-0"]
    assert made == str(tmp_path / "dump/org/train/data/talk/a-0.flac")
    assert soundfile.info(made).frames == 8000


@pytest.mark.parametrize("utt", ["../a-0", "/tmp/a-0", "b/../../a-0"])
def test_ids_that_lead_out_of_the_set_are_refused(tmp_path, utt):
    write_set(tmp_path / "data/train")
    rename_utterance(tmp_path / "data/train", "a-0", utt)
    with pytest.raises(StageError, match=f"utterance {utt} cannot be the name of a file"):
        stage_3(tmp_path)


def test_a_rate_that_the_format_lacks_is_said_with_the_file(tmp_path):
    write_set(tmp_path / "data/train")
    with pytest.raises(AudioError, match="a-0.flac: cannot be written .*"):
        stage_3(tmp_path, sample_rate=700000)


def test_the_driver_says_so_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "data/train")
    (tmp_path / "data/train/a.wav").write_text("no audio")
    options = ["--stage", "3", "--stop_stage", "3", "--train_set", "none", "--valid_set",
               "none_either", "--test_sets", "train"]  # fmt: skip
    assert run_stages(options) == 1
    said = capsys.readouterr().err
    assert "Stage 3 (Format wav.scp) stopped:" in said and "a.wav: cannot be read as" in said


@pytest.mark.parametrize("error", [ConfigError("k: v"), soundfile.SoundFileRuntimeError("k: v"),
                                   StageError("k: v"), PermissionError(13, "k: v")])  # fmt: skip
def test_errors_of_stages_and_of_libraries_are_said_with_the_stage(monkeypatch, capsys, error):
    def stage(o, at):
        raise error

    monkeypatch.setitem(driver.STAGES, 3, ("Format wav.scp", stage))
    options = ["--stage", "3", "--stop_stage", "3", "--train_set", "t", "--valid_set", "v",
               "--test_sets", "x"]  # fmt: skip
    assert run_stages(options) == 1
    said = capsys.readouterr().err
    assert "Stage 3 (Format wav.scp) stopped:" in said and "k: v" in said


def test_an_empty_test_set_is_said_before_decoding(tmp_path):
    with pytest.raises(
        StageError, match="asr_inference: the list of utterances is empty .keys."
    ):
        run_in_parts({"keys": []}, 2, tmp_path / "log", "asr_inference", lambda job: ["false"])
