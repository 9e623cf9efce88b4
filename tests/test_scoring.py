"""Word error counts and the names of asr.sh."""

import pytest

from espnet_des.recipe.layout import layout
from espnet_des.recipe.options import parse
from espnet_des.recipe.sizes import ranges
from espnet_des.scoring import count_errors


def test_word_errors_by_hand():
    references = {"a": "ONE TWO THREE", "b": "FOUR", "c": ""}
    hypotheses = {"a": "ONE THREE THREE FIVE", "b": "", "c": "SIX"}
    errors = count_errors(references, hypotheses)
    assert errors == (4, 1, 1, 2)
    assert errors.wer == 100.0
    with pytest.raises(KeyError):
        count_errors({"a": "ONE"}, {})


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
        (["--no_such_option", "1"], "unrecognized arguments: --no_such_option"),
        (["--stag", "1"], "unrecognized arguments: --stag"),
        (["--use_k2", "true"], "--use_k2 true: this driver leaves that out"),
        (["--token_type", "phn"], "--token_type phn: must be one of"),
        (["--feats_type", "fbank_pitch"], "--feats_type fbank_pitch"),
        (["--asr_config", "conf/none.yaml"], "conf/none.yaml: no such file"),
        (["--fs", "fast"], "--fs fast"),
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
