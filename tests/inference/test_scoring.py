"""Word error counts and the names of asr.sh."""

import dataclasses
import random

import pytest

from espnet_des.inference import scoring
from espnet_des.inference.scoring import count_errors, read_counts, write_scores
from espnet_des.method.layers import ranges
from espnet_des.recipe.evaluate import score
from espnet_des.recipe.layout import layout
from espnet_des.recipe.options import parse


def test_word_errors_by_hand():
    references = {"a": "ONE TWO THREE", "b": "FOUR", "c": "", "d": "FIVE"}
    hypotheses = {"a": "ONE THREE THREE FIVE", "b": "", "c": "SIX", "d": "five"}
    errors = count_errors(references, hypotheses)
    assert errors == (4, 5, 1, 1, 2, 3)
    assert errors.rate == 80.0
    with pytest.raises(KeyError):
        count_errors({"a": "ONE"}, {})


def random_texts(count, seed):
    rng = random.Random(seed)
    references, hypotheses = {}, {}
    for i in range(count):
        words = [rng.choice("ab cd ef gh".split()) for _ in range(rng.randint(1, 12))]
        heard = []
        for word in words:
            heard += rng.choice([[word]] * 5 + [[], [word, "x"], ["y"], ["ab"]])
        references[f"s-{i}"], hypotheses[f"s-{i}"] = " ".join(words), " ".join(heard)
    return references, hypotheses


def test_counts_are_those_of_sclite(tmp_path, monkeypatch):
    """The report without sclite has the counts that sclite would give."""
    references, hypotheses = random_texts(300, 0)
    speakers = dict.fromkeys(references, "s")
    counted = count_errors(references, hypotheses)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "find_sclite", lambda: None)
        assert write_scores(tmp_path / "own", references, hypotheses, speakers) == counted
    report = (tmp_path / "own/result.txt").read_text()
    assert f"| Sum/Avg |   300  {counted.words} |" in report and " 41.4 " in report
    if scoring.find_sclite() is None:
        return  # the counts recorded below still tie the two together
    assert write_scores(tmp_path / "nist", references, hypotheses, speakers) == counted
    assert read_counts(tmp_path / "nist") == counted


def test_counts_as_recorded_from_sclite():
    """sclite 2.10 on the same texts."""
    assert count_errors(*random_texts(300, 0)) == (300, 1935, 393, 195, 213, 262)


@pytest.mark.parametrize(
    "options, rate",
    [
        ([], 100.0),
        (["--cleaner", "korean_cleaner"], 0.0),
        (["--cleaner", "korean_cleaner", "--hyp_cleaner", "korean_cleaner"], 0.0),
        (["--hyp_cleaner", "korean_cleaner"], 100.0),
    ],
)  # fmt: skip
def test_cleaners_clean_references_and_hypotheses_as_in_asr_sh(tmp_path, options, rate):
    """A cleaner that spells digits; what was decoded is spelt already."""
    o = parse([*NEEDED, "--test_sets", "x", "--token_type", "char", *options])
    at = dataclasses.replace(layout(o), feats=tmp_path / "feats")
    for folder, words in ((at.feats / "x", "3 4"), (tmp_path / "exp/tag/x", "삼 사")):
        folder.mkdir(parents=True)
        (folder / "text").write_text(f"s-0 {words}\n", encoding="utf-8")
    (at.feats / "x/utt2spk").write_text("s-0 s\n")
    assert score(o, at, tmp_path / "exp", "tag")["x"].rate == rate


NEEDED = ["--train_set", "t", "--valid_set", "v", "--test_sets", "x y"]


@pytest.mark.parametrize(
    "arguments, stats, exp",
    [
        ([], "exp/asr_stats_raw_bpe30", "exp/asr_train_raw_bpe30"),
        (["--lang", "en", "--token_type", "char"], "exp/asr_stats_raw_en_char",
         "exp/asr_train_raw_en_char"),
        (["--lang", "en", "--nbpe", "500", "--asr_args", "--max_epoch 10 --seed 1"],
         "exp/asr_stats_raw_en_bpe500", "exp/asr_train_raw_en_bpe500_max_epoch10_seed1"),
        (["--asr_tag", "des", "--expdir", "e"], "e/asr_stats_raw_bpe30", "e/asr_des"),
        (["--asr_exp", "here", "--asr_stats_dir", "there"], "there", "here"),
    ],
)  # fmt: skip
def test_directories_have_the_names_of_asr_sh(arguments, stats, exp):
    at = layout(parse(NEEDED + arguments))
    assert (str(at.stats), str(at.asr_exp)) == (stats, exp)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--no_such_option", "1"], "--no_such_option: unknown; --help lists"),
        (["--stag", "1"], "--stag: unknown; is --stage meant?"),
        (["--use_k2", "true"], "--use_k2 true: this driver leaves that out"),
        (["--token_type", "phn"], "--token_type phn: must be one of"),
        (["--feats_type", "fbank_pitch"], "--feats_type fbank_pitch"),
        (["--asr_config", "conf/none.yaml"], "conf/none.yaml: no such file"),
        (["--fs", "fast"], "--fs fast"),
        (["--nj", "0"], "--nj 0: must be 1 or more"),
        (["--inference_nj", "-1"], "--inference_nj -1: must be 1 or more"),
        (["--cleaner", "soap"], "--cleaner soap: Not supported"),
        (["--hyp_cleaner", "jaconv,soap"], "--hyp_cleaner jaconv,soap: Not supported"),
        (["--train_set", ""], "--train_set is required"),
    ],
)
def test_options_that_cannot_work_are_refused(arguments, says, capsys):
    with pytest.raises(SystemExit):
        parse(NEEDED + arguments)
    assert says in capsys.readouterr().err


def test_the_last_value_of_an_option_counts():
    assert parse(NEEDED + ["--stage", "3", "--stage", "5"]).stage == 5


def test_ranges():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2 5 7-8"
