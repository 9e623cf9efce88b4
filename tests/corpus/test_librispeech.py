"""Corpus readers: whole directories or a clear word about what is missing."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from espnet_des.corpus.generated import CORPORA
from espnet_des.corpus.kaldi import DataError, Utterance, read_table, write_data_dir
from espnet_des.corpus.librispeech import prepare_librispeech
from espnet_des.corpus.spoken import speak


def make_librispeech(folder):
    """Two chapters of two utterances each."""
    root = folder / "LibriSpeech"
    for speaker, chapter in ((7, 70), (12, 120)):
        place = root / "dev-clean" / str(speaker) / str(chapter)
        place.mkdir(parents=True)
        lines = []
        for u in range(2):
            utt = f"{speaker}-{chapter}-{u:04d}"
            soundfile.write(place / f"{utt}.flac", np.zeros(1600), 16000)
            lines.append(f"{utt} WORD {'AB'[u]}\n")
        (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text(";ID|SEX\n7 | F | dev-clean\n12 | M | dev-clean\n")
    return root


def test_librispeech_becomes_a_kaldi_directory(tmp_path, capsys):
    make_librispeech(tmp_path)
    prepare_librispeech(tmp_path, tmp_path / "data", ["dev-clean"], {"all": ["dev-clean"]})
    for name in ("dev_clean", "all"):
        folder = tmp_path / "data" / name
        assert read_table(folder / "text")["7-70-0001"] == "WORD B"
        assert read_table(folder / "utt2spk")["12-120-0000"] == "12-120"
        assert read_table(folder / "spk2gender") == {"12-120": "m", "7-70": "f"}
        assert list(read_table(folder / "wav.scp")) == sorted(read_table(folder / "wav.scp"))
    capsys.readouterr()
    prepare_librispeech(tmp_path, tmp_path / "data", ["dev-clean"], {"all": ["dev-clean"]})
    assert "there already" in capsys.readouterr().out


def test_missing_sets_are_named_before_anything_is_written(tmp_path):
    make_librispeech(tmp_path)
    with pytest.raises(DataError, match="lacks test-clean.*openslr.org/12.*LIBRISPEECH"):
        prepare_librispeech(tmp_path, tmp_path / "data", ["dev-clean", "test-clean"])
    assert not (tmp_path / "data").exists()


def test_folders_of_somebody_else_are_not_replaced(tmp_path):
    make_librispeech(tmp_path)
    treasure = tmp_path / "data/dev_clean/thesis.tex"
    treasure.parent.mkdir(parents=True)
    treasure.write_text("years")
    with pytest.raises(
        DataError, match="data/dev_clean .*holds something else.*another place"
    ):
        prepare_librispeech(tmp_path, tmp_path / "data", ["dev-clean"], {"all": ["dev-clean"]})
    with pytest.raises(DataError, match="holds something else"):
        speak(treasure.parent, CORPORA["mini_digits"], scale=0.01)
    (tmp_path / "linked").symlink_to(treasure.parent)
    with pytest.raises(DataError, match="is no folder"):
        speak(tmp_path / "linked", CORPORA["mini_digits"], scale=0.01)
    assert treasure.read_text() == "years"
    assert not (tmp_path / "data/all").exists()
    command = [
        sys.executable,
        "-m",
        "espnet_des.bin.make_spoken",
        "--out",
        str(treasure.parent),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(
        f"{treasure.parent} is to be written"
    )


def test_data_directories_made_by_others_stay_as_they_are(tmp_path, capsys):
    make_librispeech(tmp_path)
    own = tmp_path / "data/dev_clean"
    own.mkdir(parents=True)
    (own / "text").write_text("u-1 MINE\n")
    prepare_librispeech(tmp_path, tmp_path / "data", ["dev-clean"], {"all": ["dev-clean"]})
    assert "dev_clean are there already" in capsys.readouterr().out
    assert list(own.iterdir()) == [own / "text"]
    assert len(read_table(tmp_path / "data/all/text")) == 4


def test_a_corpus_that_is_generated_again_is_read_again(tmp_path):
    """Its ids and places are the same, but not its words."""
    texts = []
    for seed, is_another in ((0, False), (1, True), (1, False)):
        if is_another:
            shutil.rmtree(tmp_path / "downloads")
        speak(tmp_path / "downloads", CORPORA["mini_digits"], seed=seed, scale=0.01)
        prepare_librispeech(tmp_path / "downloads", tmp_path / "data", ["dev-digits"])
        texts.append(read_table(tmp_path / "data/dev_digits/text"))
    assert list(texts[0]) == list(texts[1]) and texts[0] != texts[1] == texts[2]


def test_broken_utterances_are_named_counted_and_skipped(tmp_path, capsys):
    root = make_librispeech(tmp_path)
    (root / "dev-clean/7/70/7-70-0000.flac").write_bytes(b"no audio")
    (root / "dev-clean/12/120/12-120-0001.flac").unlink()
    transcript = root / "dev-clean/7/70/7-70.trans.txt"
    bad = b"7-70-0002\n8-80-0000 WRONG ID\n7-70-0003 \xff\xfe\n"
    transcript.write_bytes(transcript.read_bytes() + bad)
    soundfile.write(root / "dev-clean/12/120/12-120-0000.flac", np.zeros(800), 8000)
    prepare_librispeech(tmp_path, tmp_path / "data", ["dev-clean"])
    assert list(read_table(tmp_path / "data/dev_clean/text")) == ["7-70-0001"]
    said = capsys.readouterr().err
    for words in ("7-70-0000: 7-70-0000.flac cannot be read", "12-120-0001.flac is missing",
                  "7-70-0002: the transcript is empty", "does not belong to 7-70",
                  "not UTF-8", "has 8000 Hz, not 16000", "skipped 6 of 7"):  # fmt: skip
        assert words in said


def test_a_data_directory_is_written_whole_or_not_at_all(tmp_path):
    utterance = Utterance("a-1", "a", "X", tmp_path / "x.wav")
    with pytest.raises(DataError, match="a-1 occurs twice"):
        write_data_dir(tmp_path / "data", [utterance, utterance])
    with pytest.raises(DataError, match="no utterance is left"):
        write_data_dir(tmp_path / "data", [])
    assert not (tmp_path / "data").exists()
    cut = Utterance("a-2", "a", "Y", tmp_path / "talk.sph", begin=1.0, end=2.5)
    assert write_data_dir(tmp_path / "data", [cut]) == 1
    assert read_table(tmp_path / "data/segments") == {"a-2": "talk 1.00 2.50"}


def test_digits_are_the_same_for_the_same_seed_and_speakers_are_apart(tmp_path):
    from espnet_des.corpus.generated import CORPORA

    for name, least in (
        ("mini_digits", 600),
        ("compare_digits", 2000),
        ("compare_words", 2000),
    ):
        tests = [p for p in CORPORA[name].parts if p.name.startswith("test")]
        assert sum(p.speakers * p.utterances for p in tests) >= least
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        subprocess.run(
            [sys.executable, "-m", "espnet_des.bin.make_spoken", "--out", tmp_path / name,
             "--seed", seed, "--scale", "0.01"], check=True,
        )  # fmt: skip
    files = {n: sorted((tmp_path / n).rglob("*.flac")) for n in "abc"}
    one, two, other = ([f.read_bytes() for f in files[n]] for n in "abc")
    assert one == two and one != other
    speakers = [f.relative_to(tmp_path / "a").parts[2] for f in files["a"]]
    sets = [f.relative_to(tmp_path / "a").parts[1] for f in files["a"]]
    assert all(len({s for s, k in zip(sets, speakers) if k == spk}) == 1 for spk in speakers)
    assert all(soundfile.info(f).samplerate == 16000 for f in files["a"])


def test_book_sentences_are_clean_and_no_test_sentence_is_trained_on():
    import numpy as np

    from espnet_des.corpus.text import BookSentences, book_sentences

    sentences = book_sentences(6, 24)
    assert len(sentences) > 30000 and len({w for s in sentences for w in s.split()}) > 10000
    assert all(re.fullmatch("[A-Z']+( [A-Z']+){5,23}", s) for s in sentences)
    rng, drawn = np.random.default_rng(0), {}
    for part in ("train-read", "dev-read", "test-clean"):
        drawn[part] = {BookSentences().draw(rng, part) for _ in range(3000)}
        assert drawn[part] <= set(sentences) and len(drawn[part]) > 1000
    assert not drawn["train-read"] & drawn["test-clean"]
    assert not drawn["train-read"] & drawn["dev-read"]
