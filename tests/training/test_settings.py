"""Settings that ESPnet notices late, or without naming them: refused at start-up."""

import argparse
import logging
import re

import pytest

from espnet_des.errors import ConfigError
from espnet_des.nn.model import DESModel
from espnet_des.training.reporter import reported_names
from espnet_des.training.settings import OPTIMIZERS, SCHEDULERS, keys_of_batches
from tests.train import load, make_data, train_here

DECODER = {
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 8, "num_blocks": 1},
    "model_conf__ctc_weight": 0.3,
}
# Of what ESPnet tells of time and memory, epochs cannot be ranked by any.
NOT_BY = {"time", "total_count", "gpu_max_cached_mem_GB"}
BY_PLATEAU = {"scheduler": "reducelronplateau", "scheduler_conf": {}}
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six utterances, which are three batches of two."""
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, 6)
    return folder


def train(data, folder, **changes):
    return train_here(data, folder, **{"max_epoch": 3, "accum_grad": 1} | changes)


def best(*criterion):
    return {"best_model_criterion": [list(criterion)]}


# Changes of a good config, and what the error says.
SGD = {"optim": "sgd", "optim_conf": {"lr": 0.1}}
REFUSED = [
    ({"best_model_criterion": ["valid", "cer_ctc", "min"]},
     r"best_model_criterion: \['valid', 'cer_ctc', 'min'\] must be \[\[phase, key, mode\], "),
    ({"best_model_criterion": "valid,loss,min"},
     r"best_model_criterion: \('valid', 'loss', 'min'\) must be \[\[phase, key, mode\], "),
    ({"best_model_criterion": 3}, r"best_model_criterion: 3 must be \[\[phase, key, mode\], "),
    (best("valid", "cer_ctc"),
     r"best_model_criterion: \['valid', 'cer_ctc'\] must be \[phase, key, mode\]"),
    (best("valid", 3, "min"), r"best_model_criterion: \['valid', 3, 'min'\] must be \[phase"),
    (best("valid", "cer_ctc", "mim"), r"best_model_criterion: .*: mode: 'mim' must be min or max"),
    (best("test", "cer_ctc", "min"),
     r"best_model_criterion: .*: phase: 'test' must be train or valid"),
    (best("valid", "cer_ctcc", "min"),
     r"best_model_criterion: .*: valid.cer_ctcc is never reported. .*'cer_ctc', 'cer_ctc_size3'"),
    (best("train", "cer_ctc", "min"),
     "best_model_criterion: .*: train.cer_ctc is never reported"),
    (best("valid", "acc", "max"),
     r"best_model_criterion: \[\['valid', 'acc', 'max'\]\]: none of them is ever reported .*"
     "without a decoder"),
    ({"best_model_criterion": [["valid", "loss", "min"], ["valid", "los", "min"]]},
     r"best_model_criterion: \['valid', 'los', 'min'\]: valid.los is never reported"),
    (best("valid", "cer_ctc_size4", "min"), "valid.cer_ctc_size4 is never reported"),
    (best("valid", "time", "min"), "valid.time is never reported"),
    (best("valid", "cer_ctc", "min") | {"model_conf__report_cer": False,
                                        "model_conf__report_wer": False},
     "valid.cer_ctc is never reported"),
    (DECODER | best("valid", "wer", "min") | {"model_conf__report_wer": False},
     "valid.wer is never reported"),
    ({"patience": 2, "early_stopping_criterion": ["valid", "los", "min"]},
     r"early_stopping_criterion: \['valid', 'los', 'min'\]: valid.los is never reported"),
    ({"patience": 2, "early_stopping_criterion": ["valid", "acc", "max"]},
     "early_stopping_criterion: .*: valid.acc is never reported"),
    ({"patience": 2, "early_stopping_criterion": ["valid", "loss"]},
     r"early_stopping_criterion: \['valid', 'loss'\] must be \[phase, key, mode\]"),
    ({"patience": 2, "early_stopping_criterion": ["valid", "loss", "least"]},
     "early_stopping_criterion: .*: mode: 'least' must be min or max"),
    (BY_PLATEAU | {"val_scheduler_criterion": ["valid", "losss"]},
     r"val_scheduler_criterion: \['valid', 'losss'\]: valid.losss is never reported"),
    (BY_PLATEAU | {"val_scheduler_criterion": ["valid", "loss", "min"]},
     r"val_scheduler_criterion: \['valid', 'loss', 'min'\] must be \[phase, key\]"),
    ({"keep_nbest_models": -1}, "keep_nbest_models: -1 must be an integer above 0"),
    ({"keep_nbest_models": 0}, "keep_nbest_models: 0 must be an integer above 0"),
    ({"keep_nbest_models": [3, 0]}, r"keep_nbest_models: \[3, 0\] must be .* or a list of them"),
    ({"keep_nbest_models": True}, "keep_nbest_models: True must be an integer above 0"),
    ({"grad_clip": 0}, "grad_clip: 0 must be a number above 0"),
    ({"grad_clip": -1}, r"grad_clip: -1 must be a number above 0 .*1.0e\+6"),
    ({"grad_clip": NAN}, "grad_clip: nan must be a number above 0"),
    ({"grad_clip": [5.0]}, r"grad_clip: \[5.0\] must be a number above 0"),
    ({"optim_conf__lr": "1e-3"}, "optim_conf: lr: '1e-3' must be a number .*write 1.0e-3"),
    ({"optim_conf__lr": [0.1]}, r"optim_conf: lr: \[0.1\] must be a number of at least 0"),
    ({"optim_conf__lr": -0.1}, "optim_conf: lr: -0.1 must be a number of at least 0"),
    ({"optim_conf__weight_decay": "1e-6"}, "optim_conf: weight_decay: '1e-6' must be a number"),
    ({"optim_conf__eps": "1e-16"}, "optim_conf: eps: '1e-16' must be a number .*write 1.0e-3"),
    ({"optim_conf__betas": [0.9, "98e-2"]}, r"optim_conf: betas: \[0.9, '98e-2'\] must be a num"),
    ({"optim_conf__lrr": 0.1},
     r"optim_conf: {.*'lrr': 0.1.*} does not suit optim: adamw \(.*argument 'lrr'"),
    ({"optim_conf": [0.1]}, r"optim_conf: \[0.1\] must hold keys and values"),
    ({"scheduler_conf": "warmup_steps"}, "scheduler_conf: 'warmup_steps' must hold keys and val"),
    ({"optim": ["adamw"]}, r"optim: \['adamw'\] must be one of .*'adamw'"),
    ({"optim": "adamm"}, "optim: 'adamm' must be one of .*'adamw'"),
    ({"optim": "lbfgs"}, "optim: 'lbfgs' must be one of .*'adamw'"),
    ({"scheduler": ["warmuplr"]}, r"scheduler: \['warmuplr'\] must be null or one of .*'warmuplr"),
    ({"scheduler": "warmup"}, "scheduler: 'warmup' must be null or one of .*'warmuplr'"),
    ({"scheduler_conf__warmup_steps": 0},
     r"scheduler_conf: warmup_steps: 0 must be a number above 0 \(scheduler: warmuplr\)"),
    ({"scheduler_conf__warmup_steps": -5}, "warmup_steps: -5 must be a number above 0"),
    ({"scheduler_conf__warmup_steps": "4e1"}, "warmup_steps: '4e1' must be a number"),
    ({"scheduler": "noamlr", "scheduler_conf": {"warmup_steps": 0}},
     r"warmup_steps: 0 must be a number above 0 \(scheduler: noamlr\)"),
    ({"scheduler_conf": {"warmup": 3}},
     r"scheduler_conf: {'warmup': 3} does not suit scheduler: warmuplr \(.*'warmup'"),
    ({"scheduler": "onecyclelr", "scheduler_conf": {"max_lr": 0.01, "total_steps": 0}},
     r"scheduler_conf: {.*'total_steps': 0} does not suit scheduler: onecyclelr"),
    ({"scheduler": "onecyclelr", "scheduler_conf": {"max_lr": "1e-2", "total_steps": 9}},
     "scheduler_conf: max_lr: '1e-2' must be a number"),
    ({"batch_size": 0}, "batch_size: 0 must be an integer above 0"),
    ({"batch_size": -1}, "batch_size: -1 must be an integer above 0"),
    ({"batch_size": 2.0}, "batch_size: 2.0 must be an integer above 0"),
    ({"valid_batch_size": 0}, "valid_batch_size: 0 must be an integer above 0"),
    ({"batch_type": "numel", "batch_bins": 0}, "batch_bins: 0 must be an integer above 0"),
    ({"batch_type": "length", "batch_bins": 1.0e6}, "batch_bins: 1000000.0 must be an integer"),
    ({"batch_type": "numel", "valid_batch_bins": -1}, "valid_batch_bins: -1 must be an integer"),
    ({"num_iters_per_epoch": 0}, "num_iters_per_epoch: 0 must be an integer above 0, or null"),
    ({"log_interval": 0}, "log_interval: 0 must be an integer above 0, or null"),
    ({"wandb_model_log_interval": 2}, "wandb_model_log_interval: 2 must be 0"),
    ({"train_dtype": "bfloat16"}, "train_dtype: 'bfloat16' must be float32 .*use_amp: true"),
    ({"train_dtype": "float16"}, "train_dtype: 'float16' must be float32 .*use_amp: true"),
    (DECODER | {"model_conf__lsm_weight": 1.5}, "model_conf: lsm_weight: 1.5 must be at least 0"),
    (DECODER | {"model_conf__lsm_weight": -0.1}, "model_conf: lsm_weight: -0.1 must be at least"),
    (DECODER | {"model_conf__lsm_weight": "1e-1"}, "lsm_weight: '1e-1' must be .*write 1.0e-3"),
    ({"freeze_param": ["encodr"]}, r"freeze_param: 'encodr' is the name of no .*\['ctc', 'enc"),
    ({"freeze_param": ["ctc", "encoder.emb"]}, "freeze_param: 'encoder.emb' is the name of no"),
    ({"freeze_param": "ctc"}, "freeze_param: 'ctc' must be a list of names"),
    (SGD | {"model_conf__score_steps": "by_gradient"},
     "score_steps: by_gradient belongs to optim: adam, adamw and radam, not to sgd"),
    (SGD | {"model_conf__method": "iterative_zero_out", "model_conf__reduction": None,
            "model_conf__updates_per_iteration": None},
     "score_lr_factor: None must be a number with optim: sgd"),
    ({"model_conf__budget": "ms", "model_conf__cost_table": "none.json"},
     "cost_table: none.json is no table of costs"),
]  # fmt: skip


@pytest.mark.parametrize("changes, says", REFUSED, ids=lambda x: str(x)[:70].replace("/", "-"))
def test_what_is_refused_before_anything_is_written(data, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        train(data, tmp_path, **changes)
    assert not (tmp_path / "exp").exists()


ONE_CYCLE = {"scheduler": "onecyclelr", "scheduler_conf": {"max_lr": 0.01, "total_steps": 9}}
# Three epochs of three updates each; noticed when the batches are known.
REFUSED_BY_LENGTH = [
    ({"accum_grad": 4}, "accum_grad: 4 is more than the 3 batches .* must be at most 3"),
    ({"accum_grad": 4, "model_conf__updates_per_iteration": None}, "accum_grad: 4 is more than"),
    (ONE_CYCLE | {"max_epoch": 4}, "scheduler_conf: total_steps: 9 .* must be at least 12"),
    (ONE_CYCLE | {"scheduler_conf": {"max_lr": 0.01, "epochs": 4, "steps_per_epoch": 2}},
     "scheduler_conf: total_steps: 8 .or epochs times steps_per_epoch. must be at least 9"),
]  # fmt: skip


@pytest.mark.parametrize("changes, says", REFUSED_BY_LENGTH, ids=lambda x: str(x)[:70])
def test_what_does_not_suit_the_length_of_the_run(data, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        train(data, tmp_path, **changes)
    assert not list((tmp_path / "exp").glob("*.pth"))


def test_a_refused_start_leaves_what_was_trained_as_it_was(data, tmp_path):
    """The config beside its checkpoints, above all; then it goes on from there."""
    exp = train(data, tmp_path, **ONE_CYCLE)
    before = {path: path.read_bytes() for path in exp.iterdir() if path.is_file()}
    for changes, says in (
        (ONE_CYCLE | {"max_epoch": 5},
         "max_epoch makes this run 15 updates long, but scheduler: onecyclelr .* with 9"),
        (ONE_CYCLE | {"max_epoch": 5, "accum_grad": 4}, "accum_grad: 4"),
        (best("valid", "acc", "max"), "none of them is ever reported"),
        ({"grad_clip": 0}, "grad_clip"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            train(data, tmp_path, **changes)
        assert {path: path.read_bytes() for path in exp.iterdir() if path.is_file()} == before
    train(data, tmp_path, **ONE_CYCLE)


# Of every optimizer, scheduler and way to make batches one that works in ESPnet.
SCHEDULER_CONFS = {
    "cosineannealinglr": {"T_max": 3},
    "cosineannealingwarmrestarts": {"T_0": 3},
    "cosineannealingwarmuprestarts": {"first_cycle_steps": 5, "warmup_steps": 0},
    "cycliclr": {"base_lr": 0.001, "max_lr": 0.01},
    "exponentialdecaywarmup": {"max_lr": 0.01, "min_lr": 0.001, "total_steps": 5},
    "exponentiallr": {"gamma": 0.9},
    "multisteplr": {"milestones": [2, 3]},
    "noamlr": {"warmup_steps": 2.5},
    "onecyclelr": {"max_lr": [0.01, 0.02], "total_steps": 9, "anneal_strategy": "linear"},
    "piecewiselinearwarmuplr": {"warmup_steps_list": [0, 3], "warmup_lr_list": [0.0, 0.01]},
    "steplr": {"step_size": 2},
    "tristagelr": {"max_steps": 9},
    "warmupreducelronplateau": {"warmup_steps": 2},
}
TAKEN = [
    *({"optim": name, "optim_conf": {} if name == "adadelta" else {"lr": 0.001}}
      for name in OPTIMIZERS),
    *({"scheduler": name, "scheduler_conf": SCHEDULER_CONFS.get(name, {})}
      for name in [None, *SCHEDULERS] if name != "lambdalr"),  # which takes functions
    {"optim": "AdamW", "scheduler": "WarmupLR", "scheduler_conf": {"warmup_steps": 1}},
    {"optim": "sgd", "optim_conf": {"lr": 0.01, "momentum": 0.9, "nesterov": True}},
    {"optim_conf": {"lr": 0, "betas": [0.9, 0.98], "foreach": None}, "exclude_weight_decay": True},
    {"batch_type": "sorted"},
    {"batch_type": "folded", "fold_length": [80000, 150]},
    {"batch_type": "length", "batch_bins": 11000, "batch_size": 0, "model_conf__reduction": 5},
    {"batch_type": "numel", "batch_bins": 11000, "valid_batch_type": "unsorted",
     "model_conf__reduction": 5},
    {"batch_bins": 0},
    {"accum_grad": 3, "model_conf__updates_per_iteration": 1, "model_conf__reduction": 5},
    {"grad_clip": INF},
    {"grad_clip": "1e6"},
    {"keep_nbest_models": []},
    {"keep_nbest_models": [1, 2]},
    {"best_model_criterion": []},
    {"best_model_criterion": None},  # ESPnet's default, which names an accuracy
    {"best_model_criterion": [["valid", "acc", "max"], ["train", "grad_norm", "min"]]},
    DECODER | best("valid", "acc", "max") | {"model_conf__lsm_weight": 0.1},
    {"model_conf__lsm_weight": 2.0},  # there is no decoder
    {"early_stopping_criterion": ["valid", "acc", "max"]},  # there is no patience
    {"patience": 3, "early_stopping_criterion": ["valid", "cer_ctc_size3", "min"]},
    BY_PLATEAU | {"val_scheduler_criterion": ["valid", "score_margin"]},
    {"val_scheduler_criterion": ["valid", "acc"]},  # the scheduler needs none
    {"train_dtype": "float64"},
    {"freeze_param": ["encoder.embed", "ctc.ctc_lo.bias"]},
    {"freeze_param": []},
    {"log_interval": None},
    {"num_iters_per_epoch": 2, "max_epoch": 5},
]  # fmt: skip


def test_an_accuracy_without_a_decoder_may_stand_beside_what_is_reported(data, tmp_path):
    """As in ESPnet's own configs."""
    both = [["valid", "acc", "max"], ["valid", "cer_ctc", "min"]]
    exp = train(data, tmp_path, best_model_criterion=both)
    assert (exp / "valid.cer_ctc.best.pth").exists()


@pytest.mark.parametrize("changes", TAKEN, ids=lambda x: str(x)[:70].replace("/", "-"))
def test_what_is_not_refused(data, tmp_path, changes):
    assert (train(data, tmp_path, **changes) / "checkpoint.pth").exists()


def arguments_of_batches(**changes):
    unset = dict.fromkeys(("valid_batch_size", "valid_batch_bins", "valid_batch_type",
                           "valid_iterator_type"))  # fmt: skip
    usual = {
        "batch_size": 2,
        "batch_bins": 9,
        "batch_type": "folded",
        "iterator_type": "sequence",
    }
    return argparse.Namespace(**unset | usual | changes)


@pytest.mark.parametrize("changes, keys", [
    ({}, {"batch_size"}),
    ({"batch_type": "numel"}, {"batch_bins"}),
    ({"batch_type": "numel", "valid_batch_bins": 1, "valid_batch_size": 1},
     {"batch_bins", "valid_batch_bins"}),
    ({"batch_type": "length", "valid_batch_type": "sorted"}, {"batch_bins", "batch_size"}),
    ({"batch_type": "length", "iterator_type": "chunk"}, {"batch_size"}),
    ({"batch_type": "catpow", "iterator_type": "category", "valid_batch_type": "unsorted",
      "valid_iterator_type": "sequence", "valid_batch_size": 3},
     {"batch_bins", "valid_batch_size"}),
])  # fmt: skip
def test_only_the_size_that_batches_are_made_by_is_looked_at(changes, keys):
    assert keys_of_batches(arguments_of_batches(**changes)) == keys


@pytest.mark.parametrize("changes", [
    {},
    {"encoder_conf__sizes": [2, 4, 6, 8], "model_conf__reduction": 6},
    {"encoder_conf__sizes": [3, 8], "exclude_weight_decay": True},
    {"model_conf__method": "iterative_zero_out", "model_conf__reduction": None},
    {"model_conf__method": "fixed", "model_conf__ranking": list(range(8))},
    {"model_conf__report_cer": False, "model_conf__report_wer": False},
    DECODER,
    DECODER | {"model_conf__report_wer": False},
    DECODER | {"model_conf__method": "iterative_zero_out", "model_conf__reduction": None,
               "model_conf__report_cer": False},
    DECODER | {"model_conf__report_cer": False, "model_conf__report_wer": False},
], ids=lambda x: str(x)[:70])  # fmt: skip
def test_the_names_that_are_known_before_are_those_that_are_reported(
    data, tmp_path, monkeypatch, changes
):
    told = []

    def note(model, optimizer):
        told.append(reported_names(model, optimizer))
        return told[-1]

    monkeypatch.setattr("espnet_des.training.settings.reported_names", note)
    changes = {"model_conf__reduction": 5, "best_model_criterion": None} | changes
    exp = train(data, tmp_path, **changes)
    found: dict[str, set] = {}  # of all epochs: in stage 1 the middle sizes have no loss
    for stats in load(exp / "checkpoint.pth")["reporter"]["stats"].values():
        for phase, names in stats.items():
            found.setdefault(phase, set()).update(names.keys() - NOT_BY)
    assert found == told[0]


@pytest.mark.parametrize(
    "max_epoch, warning",
    [
        (
            2,
            "update 3, an epoch has 3 updates, and max_epoch is 2. .* Raise max_epoch to 3 at",
        ),
        (3, None),
    ],
)
def test_a_run_without_a_whole_epoch_of_stage_2_is_warned_of_at_its_start(
    data, tmp_path, caplog, max_epoch, warning
):
    """Stage 1 takes the updates 0 to 3: the whole first epoch, and a third of the second."""
    caplog.set_level(logging.INFO)
    selection = {"model_conf__updates_per_iteration": 3, "model_conf__reduction": 5}
    exp = train(data, tmp_path, max_epoch=max_epoch, **selection)
    said = [record.getMessage() for record in caplog.records]
    before = "\n".join(said[: said.index(f"1/{max_epoch}epoch started")])
    assert ("No epoch of this run will lie wholly in stage 2" in before) == (
        warning is not None
    )
    assert warning is None or re.search(warning, before)
    assert (exp / "valid.cer_ctc.ave.pth").exists() == (warning is None)


def test_a_resume_is_warned_by_the_updates_that_are_left(data, tmp_path, caplog):
    """One epoch is done, and stage 1 lasts into the third."""
    selection = {"model_conf__updates_per_iteration": 6, "model_conf__reduction": 5}
    after_step = DESModel.after_step

    def stop_in_the_second_epoch(model):
        after_step(model)
        if model.state.updates == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DESModel, "after_step", stop_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path, **selection)
    caplog.clear()
    train(data, tmp_path, **selection)
    assert "max_epoch is 3. So no epoch can be the best" in caplog.text
    assert "Raise max_epoch to 4 at least" in caplog.text


def test_a_loss_that_rises_with_stage_2_is_told_of_where_it_lowers_the_rate(
    data, tmp_path, caplog
):
    train(data, tmp_path / "1", **BY_PLATEAU | {"val_scheduler_criterion": ["valid", "loss"]})
    assert "val_scheduler_criterion: ['valid', 'loss']: with stage 2 the loss" in caplog.text
    caplog.clear()
    train(data, tmp_path / "2",
          **BY_PLATEAU | {"val_scheduler_criterion": ["valid", "loss_ctc"]})  # fmt: skip
    assert "val_scheduler_criterion" not in caplog.text
