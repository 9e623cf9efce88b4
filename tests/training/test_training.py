"""Trainings through ``espnet2.bin.asr_train``: stages, resume, averages, refusals."""

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from espnet_des.errors import ConfigError
from espnet_des.method.options import SelectionOptions
from espnet_des.method.selection import Schedule
from espnet_des.nn.model import DESModel
from espnet_des.training.checkpoints import check_restored, check_tokens
from espnet_des.training.trainer import Length, keep_schedule, start_selection
from tests.conftest import make_model
from tests.train import (
    CONFIG,
    ROOT,
    assert_same,
    kill_when,
    load,
    start,
    train_here,
)

SELECTION = "encoder.selection."
SCRIPT = str(ROOT / "tests/train_and_dump.py")


@pytest.fixture(autouse=True)
def log_everything(caplog):
    caplog.set_level(logging.INFO)


def messages(caplog):
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    """Six epochs of 3 updates; stage 1 ends with update 5, that is epoch 2."""
    return train_here(data, tmp_path_factory.mktemp("whole"), max_epoch=6)


def test_kill_and_resume_end_as_an_uninterrupted_run(data, whole_run, tmp_path):
    """Killed within stage 1, and again where stage 2 has just begun."""
    changes = {"max_epoch": 6}
    for number, words in enumerate(("1epoch:train:5-5batch", "3epoch:train:2-2batch")):
        process = start(data, tmp_path, **changes)
        kill_when(process, tmp_path / f"log{number}.txt", words)
    assert start(data, tmp_path, **changes).wait() == 0, (tmp_path / "log2.txt").read_text()
    for name in ("6epoch.pth", "valid.cer_ctc.ave_3best.pth"):
        assert_same(load(whole_run / name), load(tmp_path / "exp" / name))
    one, two = (load(p / "checkpoint.pth") for p in (whole_run, tmp_path / "exp"))
    assert one["schedulers"] == two["schedulers"]
    for a, b in zip(one["optimizers"][0]["state"].values(),
                    two["optimizers"][0]["state"].values()):  # fmt: skip
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert "The training was resumed" in (tmp_path / "log2.txt").read_text()


def test_resume_within_stage_1_of_iterative_zero_out(data, tmp_path):
    """Between two zero-outs, with the scores' own learning rate and accumulation.

    And with all that is beyond the paper: what it draws comes from the update counter.
    """
    changes = {
        "model_conf__rows_stage_1": 0.5, "model_conf__rows_small": 0.7,
        "model_conf__rows_middle": 0.5, "model_conf__exit_weight": 0.3,
        "model_conf__distillation_weight": 0.2,
        "max_epoch": 6, "model_conf__method": "iterative_zero_out",
        "model_conf__reduction": None, "model_conf__zeroed": [2, 4, 5],
        "model_conf__updates_per_iteration": [4, 4, 4], "model_conf__stochastic_depth_p1": 0.4,
    }  # fmt: skip
    whole = train_here(data, tmp_path / "whole", **changes)
    process = start(data, tmp_path / "killed", **changes)
    kill_when(process, tmp_path / "killed/log0.txt", "3epoch:train:4-4batch")
    middle = load(tmp_path / "killed/exp/checkpoint.pth")["model"]
    assert middle[SELECTION + "updates"] == 6 and middle[SELECTION + "zeroed_at"].max() == 1
    exp = train_here(data, tmp_path / "killed", **changes)
    for name in ("6epoch.pth", "valid.cer_ctc.ave.pth"):
        assert_same(load(whole / name), load(exp / name))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_broken_checkpoint_falls_back_to_the_one_before(
    data, whole_run, tmp_path, caplog, content
):
    shutil.copytree(whole_run, tmp_path / "exp", symlinks=True)
    path = tmp_path / "exp/checkpoint.pth"
    path.write_bytes(path.read_bytes()[:20000] if content is None else content)
    train_here(data, tmp_path, max_epoch=6)
    assert "cannot be read" in messages(caplog)
    assert_same(load(whole_run / "6epoch.pth"), load(tmp_path / "exp/6epoch.pth"))
    assert_same(load(whole_run / "6epoch.pth"), load(path)["model"])
    (tmp_path / "exp/checkpoint.previous.pth").unlink()
    path.write_bytes(b"broken")
    with pytest.raises(RuntimeError, match="none before it.*Nothing was overwritten"):
        train_here(data, tmp_path, max_epoch=7)
    assert path.read_bytes() == b"broken"


def test_a_lower_max_epoch_does_not_refuse_a_finished_selection(data, tmp_path, caplog):
    share = {"model_conf__updates_per_iteration": None, "model_conf__reduction": None,
             "model_conf__selection_share": 0.5}  # fmt: skip
    train_here(data, tmp_path, max_epoch=6, **share)
    train_here(data, tmp_path, max_epoch=3, **share)
    assert "too short for 5 iterations" in messages(caplog)


def test_a_step_with_gradients_that_are_not_finite_does_not_count(
    data, tmp_path, monkeypatch, caplog
):
    from espnet_des.nn.model import DESModel

    calls = []
    forward = DESModel.forward

    def sometimes_nan(self, *args, **kwargs):
        loss, stats, weight = forward(self, *args, **kwargs)
        calls.append(self.training)
        return loss * (float("nan") if sum(calls) % 4 == 0 else 1.0), stats, weight

    monkeypatch.setattr(DESModel, "forward", sometimes_nan)
    exp = train_here(
        data,
        tmp_path,
        max_epoch=4,
        accum_grad=1,
        model_conf__method="iterative_zero_out",
        model_conf__reduction=None,
    )
    state = load(exp / "checkpoint.pth")["model"]
    assert state[SELECTION + "updates"] == 28 - 7
    assert all(torch.isfinite(v).all() for v in state.values())
    stats = load(exp / "checkpoint.pth")["reporter"]["stats"]
    assert [stats[e]["valid"]["skipped_updates"] for e in (1, 2, 3, 4)] == [1, 2, 2, 2]
    # The last of all has no batch after it that could tell.
    assert messages(caplog).count("was skipped: its gradients were not finite") == 6


def test_a_training_that_only_skips_ends_with_a_message(data, tmp_path, monkeypatch):
    from espnet_des.nn.model import DESModel

    forward = DESModel.forward

    def nan_from_the_tenth(self, *args, **kwargs):
        loss, stats, weight = forward(self, *args, **kwargs)
        return loss * (1.0 if self.state.updates < 5 else float("nan")), stats, weight

    monkeypatch.setattr(DESModel, "forward", nan_from_the_tenth)
    says = (
        r"3 updates in a row were skipped.*max_skipped_updates: 3.*utterances were u\d\d u\d\d"
    )
    with pytest.raises(RuntimeError, match=says):
        train_here(data, tmp_path, accum_grad=1, model_conf__max_skipped_updates=3)
    state = load(tmp_path / "exp/checkpoint.pth")["model"]
    assert state[SELECTION + "updates"] == 5  # two of the first epoch, one of the second


def test_an_epoch_without_an_update_ends_with_an_error(data, tmp_path, monkeypatch):
    """ESPnet's trainer would end well, with what it has averaged."""
    from espnet_des.nn.model import DESModel

    forward = DESModel.forward

    def nan_in_the_second_epoch(self, *args, **kwargs):
        loss, stats, weight = forward(self, *args, **kwargs)
        return loss * (1.0 if self.state.updates < 7 else float("nan")), stats, weight

    monkeypatch.setattr(DESModel, "forward", nan_in_the_second_epoch)
    with pytest.raises(RuntimeError, match="this epoch made no update: the gradients of all"):
        train_here(data, tmp_path, accum_grad=1)
    assert load(tmp_path / "exp/checkpoint.pth")["model"][SELECTION + "updates"] == 7


@pytest.mark.parametrize("scheduler, conf", [
    ("exponentialdecaywarmup", {"max_lr": 0.01, "min_lr": 0.001, "total_steps": 9,
                                "warmup_steps": 3}),
    ("onecyclelr", {"max_lr": 0.01, "total_steps": 9}),
    ("reducelronplateau", {}),
])  # fmt: skip
def test_the_scores_learn_faster_with_any_scheduler(data, tmp_path, scheduler, conf):
    """AdamW moves a parameter by its learning rate in its first step."""
    moved = []
    for factor in (1.0, 50.0):
        exp = train_here(
            data, tmp_path / str(factor), max_epoch=3, accum_grad=7, scheduler=scheduler,
            scheduler_conf=conf, model_conf__reduction=5, model_conf__score_lr_factor=factor,
            val_scheduler_criterion=["valid", "loss"], keep_nbest_models=9, optim_conf__lr=1e-4,
        )  # fmt: skip
        scores = load(exp / "checkpoint.pth")["model"]["encoder.scores"]
        moved.append((scores - 0.5).abs().max())
    assert moved[1] / moved[0] == pytest.approx(50.0, rel=0.5)


def test_updates_are_counted_by_the_optimizer(whole_run):
    """7 batches at accum_grad 2 are 3 updates an epoch, not 7 and not 3.5."""
    state = load(whole_run / "checkpoint.pth")["model"]
    assert state[SELECTION + "updates"] == 18
    assert state[SELECTION + "schedule"][:5].tolist() == [[1, z] for z in range(1, 6)]
    assert sorted(state[SELECTION + "ranking"].tolist()) == list(range(8))


def test_an_average_has_the_sets_of_its_epochs_and_is_of_stage_2(whole_run):
    reporter = load(whole_run / "checkpoint.pth")["reporter"]["stats"]
    stage_2 = [e for e, stats in reporter.items() if stats["train"]["stage"] == 2.0]
    assert stage_2 == [3, 4, 5, 6]
    average = load(whole_run / "valid.cer_ctc.ave_3best.pth")
    assert (
        whole_run / "valid.cer_ctc.ave.pth"
    ).resolve().name == "valid.cer_ctc.ave_3best.pth"
    epochs = [e for e in stage_2 if (whole_run / f"{e}epoch.pth").exists()]
    best = sorted(epochs, key=lambda e: reporter[e]["valid"]["cer_ctc"])[:3]
    states = [load(whole_run / f"{e}epoch.pth") for e in best]
    for key in (k for k in average if k.startswith(SELECTION) and not k.endswith("updates")):
        assert all(torch.equal(average[key], s[key]) for s in states), key
    counts = [float(s[SELECTION + "updates"]) for s in states]
    assert float(average[SELECTION + "updates"]) == sum(counts) / 3
    for key in ("encoder.after_norm.weight", "ctc.ctc_lo.heads.size3.weight"):
        torch.testing.assert_close(average[key], sum(s[key] for s in states) / 3)

    import espnet2.tasks.asr as asr

    model, _ = asr.ASRTask.build_model_from_file(
        whole_run / "config.yaml", whole_run / "valid.cer_ctc.ave.pth"
    )
    assert model.stage == 2
    ranking = states[0][SELECTION + "ranking"].long().tolist()
    assert model.encoder.kept_layers(3) == sorted(ranking[:3])


def test_every_key_is_in_every_epoch_that_has_it(whole_run):
    """Of training, the loss of a middle size begins with stage 2, here in epoch 2."""
    stats = load(whole_run / "checkpoint.pth")["reporter"]["stats"]
    for epoch in stats:
        lacking = {"loss_ctc_size5", "loss_distillation_size5"} if epoch == 1 else set()
        assert stats[epoch]["train"].keys() | lacking == stats[6]["train"].keys()
        assert not lacking & stats[epoch]["train"].keys()
        assert stats[epoch]["valid"].keys() == stats[1]["valid"].keys()
    assert {"cer_ctc_size3", "cer_ctc_size5", "selection_swaps"} <= stats[1]["valid"].keys()


def test_a_larger_max_epoch_goes_on_and_keeps_the_schedule(data, tmp_path, caplog):
    """With a share, a longer run would mean a longer stage 1."""
    share = {"model_conf__updates_per_iteration": None, "model_conf__reduction": 5,
             "model_conf__selection_share": 0.5}  # fmt: skip
    exp = train_here(data, tmp_path, max_epoch=4, **share)
    before = load(exp / "checkpoint.pth")["model"]
    assert before[SELECTION + "schedule"][0].tolist() == [6, 5]
    train_here(data, tmp_path, max_epoch=8, **share)
    after = load(exp / "checkpoint.pth")["model"]
    assert after[SELECTION + "updates"] == 24
    for key in ("schedule", "ranking"):
        assert torch.equal(before[SELECTION + key], after[SELECTION + key])
    assert "another selection schedule (1 iterations of 12 to 12" in messages(caplog)
    assert "the one of the first start is kept (1 iterations of 6 to 6" in messages(caplog)


def test_a_run_without_a_whole_stage_2_epoch_says_so(data, tmp_path, caplog):
    exp = train_here(data, tmp_path, max_epoch=2, model_conf__updates_per_iteration=None,
                     model_conf__reduction=5, model_conf__selection_share=0.75)  # fmt: skip
    assert not list(exp.glob("valid.*")) and (exp / "2epoch.pth").exists()
    assert "No epoch lies wholly in stage 2" in messages(caplog)


def test_patience_counts_from_the_first_whole_stage_2_epoch(data, tmp_path, caplog):
    exp = train_here(
        data, tmp_path, max_epoch=9, patience=1, optim_conf__lr=1e-12,
        early_stopping_criterion=["valid", "cer_ctc", "min"],
    )  # fmt: skip
    # Nothing improves: the best epoch is the first that counts, epoch 3.
    assert "The training was stopped at 5epoch" in messages(caplog)
    assert load(exp / "checkpoint.pth")["reporter"]["epoch"] == 5


def test_a_missing_epoch_file_is_written_again_on_resume(data, whole_run, tmp_path):
    """ESPnet writes checkpoint.pth first: a kill in between loses the other."""
    shutil.copytree(whole_run, tmp_path / "exp", symlinks=True)
    expected = load(whole_run / "6epoch.pth")
    (tmp_path / "exp/6epoch.pth").unlink()
    train_here(data, tmp_path, max_epoch=6)
    assert_same(expected, load(tmp_path / "exp/6epoch.pth"))


def test_one_line_swap_of_an_existing_ctc_yaml(data, tmp_path):
    exp = train_here(
        data, tmp_path, model="espnet", encoder_conf__sizes=None, accum_grad=1,
        model_conf__updates_per_iteration=None, model_conf__reduction=None, max_epoch=3,
    )  # fmt: skip
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["model"] == "des"
    state = load(exp / "checkpoint.pth")["model"]
    assert state[SELECTION + "sizes"].tolist() == [3, 5, 8]
    assert (exp / "valid.cer_ctc.ave.pth").exists()


def test_hybrid_training_gives_every_size_its_statistics(data, tmp_path):
    exp = train_here(
        data, tmp_path, max_epoch=3, model_conf__ctc_weight=0.3, decoder="transformer",
        decoder_conf={"attention_heads": 2, "linear_units": 8, "num_blocks": 1},
    )  # fmt: skip
    stats = load(exp / "checkpoint.pth")["reporter"]["stats"][3]["valid"]
    names = {"acc", "cer", "wer", "loss_att", "loss_ctc", "cer_ctc"}
    assert {f"{n}{s}" for n in names for s in ("", "_size3", "_size5")} <= stats.keys()


def test_configs_without_a_supernet_are_trained_by_stock_espnet(data, tmp_path, caplog):
    from espnet_des.training.trainer import SupernetTrainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SupernetTrainer, "run", None)
        exp = train_here(
            data, tmp_path, max_epoch=1, encoder="conformer", encoder_conf__sizes=None,
            model="espnet", model_conf={"ctc_weight": 1.0},
        )  # fmt: skip
    assert yaml.safe_load((exp / "config.yaml").read_text())["model"] == "espnet"
    assert (exp / "valid.cer_ctc.best.pth").exists()


@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out"])
def test_the_scores_learning_rate(data, tmp_path, caplog, method):
    exp = train_here(data, tmp_path, max_epoch=3, model_conf__method=method,
                     model_conf__reduction=None)  # fmt: skip
    checkpoint = load(exp / "checkpoint.pth")
    groups = checkpoint["optimizers"][0]["param_groups"]
    ratio = float(checkpoint["model"][SELECTION + "score_lr_factor"])
    assert groups[1]["weight_decay"] == 0.0 and len(groups[1]["params"]) == 1
    assert groups[1]["lr"] == groups[0]["lr"]  # the factor acts in the step alone
    if method == "simple_top_k":
        assert ratio == pytest.approx(1.0)
    else:
        # Iteration 0 is updates 0 and 1. WarmupLR's rates there, of a warm-up of 4:
        travel = 0.01 * (1 / 4 + 2 / 4)
        needed = 10.0 - torch.logit(torch.tensor(1 - 1 / 8)).item()
        assert ratio == pytest.approx(needed / travel, rel=1e-3)
        assert "is too small" not in messages(caplog)


def test_a_score_learning_rate_that_cannot_reach_the_sparsity_is_warned_about(
    data, tmp_path, caplog
):
    train_here(data, tmp_path, max_epoch=3, model_conf__method="iterative_zero_out",
               model_conf__reduction=None, model_conf__score_lr_factor=2.0)  # fmt: skip
    assert "score_lr_factor: 2 is too small" in messages(caplog)
    assert "1.07e+03 would do" in messages(caplog)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"max_epoch": 2}, "updates 0 to 5 .* only 6 updates"),
        ({"model": "maskctc"}, "model: 'maskctc' cannot be used"),
        ({"use_deepspeed": True}, "use_deepspeed: True cannot be used"),
        ({"use_adapter": True}, "use_adapter: True cannot be used"),
        ({"freeze_param": ["encoder"]}, "freeze_param: .* freezes encoder.scores"),
        ({"sharded_ddp": True}, "sharded_ddp: True cannot be used"),
        ({"ngpu": 2, "multiprocessing_distributed": False}, "ngpu: 2 .* DataParallel"),
        ({"encoder_conf__sizes": [3, 9]}, "sizes"),
        ({"model_conf__method": "none"}, "method"),
        ({"encoder": "conformer", "encoder_conf__sizes": None},
         "model: des needs a supernet encoder"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_any_training(data, tmp_path, changes, says):
    with pytest.raises(Exception, match=says):
        train_here(data, tmp_path, **changes)
    assert not list((tmp_path / "exp").glob("*.pth"))


def test_score_learning_rates_are_known_for_steps_of_the_learning_rate_only(
    data, tmp_path, caplog
):
    sgd = {"optim": "sgd", "optim_conf": {"lr": 0.1}, "model_conf__reduction": None,
           "model_conf__method": "iterative_zero_out", "max_epoch": 6}  # fmt: skip
    with pytest.raises(ConfigError, match="score_lr_factor: None .* optim: sgd"):
        train_here(data, tmp_path, **sgd)
    train_here(data, tmp_path, **sgd, model_conf__score_lr_factor=50)
    assert "The scores learn 50 times as fast" in messages(caplog)


def test_a_resume_with_other_tokens_is_refused(data, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "exp", symlinks=True)
    before = (tmp_path / "exp/config.yaml").read_text()
    tokens = [*CONFIG["token_list"]]
    tokens[2], tokens[3] = tokens[3], tokens[2]
    for changed in (tokens, str(tmp_path / "tokens.txt")):
        (tmp_path / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens))
        with pytest.raises(ConfigError, match="token_list: token 2 is 'B', but 'A'"):
            train_here(data, tmp_path, max_epoch=7, token_list=changed)
    assert (tmp_path / "exp/config.yaml").read_text() == before


def test_a_list_of_tokens_is_read_as_espnet_reads_it(data, whole_run, tmp_path):
    """A token that is a space of another kind is an empty one then."""
    shutil.copytree(whole_run, tmp_path / "exp", symlinks=True)
    config = yaml.safe_load((tmp_path / "exp/config.yaml").read_text())
    tokens = [*CONFIG["token_list"]]
    (tmp_path / "tokens.txt").write_text("\u3000\n".join(tokens) + "\n", encoding="utf-8")
    check_tokens(tmp_path / "exp", str(tmp_path / "tokens.txt"), True)
    config["token_list"][3] = ""
    (tmp_path / "exp/config.yaml").write_text(yaml.safe_dump(config))
    tokens[3] = "\u2028"
    (tmp_path / "tokens.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    check_tokens(tmp_path / "exp", str(tmp_path / "tokens.txt"), True)


@pytest.mark.parametrize("how", ["resume", "init_param"])
def test_another_method_in_stage_2_is_refused(data, whole_run, tmp_path, how):
    """config.yaml would name a method that did not choose the layers."""
    changes = {"model_conf__method": "iterative_zero_out", "model_conf__reduction": None}
    if how == "resume":
        shutil.copytree(whole_run, tmp_path / "exp", symlinks=True)
    else:
        changes["init_param"] = [str(whole_run / "6epoch.pth")]
    with pytest.raises(RuntimeError, match="method: .* simple_top_k, the config says"):
        train_here(data, tmp_path, max_epoch=7, **changes)


def test_memory_that_is_missing_is_not_called_another_model(
    data, whole_run, tmp_path, monkeypatch
):
    shutil.copytree(whole_run, tmp_path / "exp", symlinks=True)

    def fails(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(DESModel, "load_state_dict", fails)
    with pytest.raises(RuntimeError, match="^DefaultCPUAllocator"):
        train_here(data, tmp_path, max_epoch=7)


def test_a_resume_reads_its_checkpoint_once(data, whole_run, tmp_path, monkeypatch):
    shutil.copytree(whole_run, tmp_path / "exp", symlinks=True)
    read, torch_load = [], torch.load

    def counted(file, *args, **kwargs):
        read.append(str(file))
        return torch_load(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    train_here(data, tmp_path, max_epoch=6)
    assert [Path(name).name for name in read].count("checkpoint.pth") == 1


def test_lightning_is_refused(data, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "espnet_des", "-c",
         "import espnet2.tasks.asr as a, argparse;"
         "a.ASRTask.build_model(argparse.Namespace(encoder='des_conformer', lightning_conf={}))"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "lightning_conf: {} cannot be used" in run.stderr


def test_two_processes_agree(data, tmp_path):
    """DDP on the CPU, one utterance per rank in every update."""
    changes = {
        "max_epoch": 3, "batch_size": 2, "accum_grad": 1, "unused_parameters": False,
        "model_conf__stochastic_depth_p1": 0.5, "model_conf__stochastic_depth_p2": 0.9,
        "model_conf__method": "iterative_zero_out", "model_conf__reduction": None,
        "model_conf__updates_per_iteration": 1,
        "encoder_conf__sizes": [2, 4, 6, 8], "model_conf__zeroed": [1, 3, 6],
    }  # fmt: skip
    rendezvous = f"file://{tmp_path}/rendezvous"
    processes = [
        start(
            data, tmp_path / str(rank), program=[SCRIPT, str(tmp_path / f"{rank}.pth")],
            extra=["--dist_rank", str(rank), "--dist_world_size", "2",
                   "--dist_backend", "gloo", "--dist_init_method", rendezvous],
            **changes,
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank, process in enumerate(processes):
        assert process.wait(300) == 0, (tmp_path / str(rank) / "log0.txt").read_text()[-4000:]
    one, two = (load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert_same(one, two)
    assert one[SELECTION + "ranking"].any() and one[SELECTION + "updates"] == 21


def with_updates_of_another_run(updates):
    """A supernet in stage 1 that --init_param has brought, with so many updates done."""
    model = make_model({"sizes": [2, 8]}, Schedule((10,), (6,)), updates_per_iteration=10)
    model.state.updates.fill_(updates)
    return model


def test_a_resume_counts_what_is_left_of_the_selection():
    """10 of its updates, 8 of which were done, 4 of them before this run of 8 began."""
    model = with_updates_of_another_run(8)
    keep_schedule(model, Length(4, 8), epochs=1)
    model.state.updates.fill_(4)
    with pytest.raises(ConfigError, match="takes updates 4 to 10 .* only 4 updates left"):
        keep_schedule(model, Length(4, 8), epochs=1)


def test_a_schedule_that_is_not_used_is_not_asked_to_fit():
    model = with_updates_of_another_run(11)
    model.state.freeze(torch.arange(8))
    model.options = SelectionOptions(selection_share=0.1)
    optimizer = torch.optim.AdamW(model.parameters())
    start_selection(
        model, optimizer, None, Length(2, 4), seed=0
    )  # too short to select anything
    assert model.state.get_schedule() == Schedule((10,), (6,))


def test_a_rate_of_the_scores_that_a_resume_does_not_take_over_is_named(caplog):
    model = with_updates_of_another_run(8)
    model.options = SelectionOptions(updates_per_iteration=10, reduction=6, score_lr_factor=3)
    keep_schedule(model, Length(4, 8), epochs=1)
    assert "score_lr_factor: 3 is not used: the training goes on with the checkpoint's 1" in (
        caplog.text
    )


@pytest.mark.parametrize("scheduler, told", [
    (None, {"lr", "betas"}),
    (lambda o: torch.optim.lr_scheduler.StepLR(o, 3), {"initial_lr", "betas"}),
    (lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 9), set()),
])  # fmt: skip
def test_settings_of_an_optimizer_are_told_unless_the_scheduler_moves_them(
    caplog, scheduler, told
):
    def made(lr, betas):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=lr, betas=betas)
        return [optimizer], [scheduler and scheduler(optimizer)]

    optimizers, schedulers = made(0.001, (0.9, 0.99))
    found = {
        "optimizers": [o.state_dict() for o in optimizers],
        "schedulers": [s and s.state_dict() for s in schedulers],
    }
    check_restored(found, *made(0.002, (0.8, 0.99)))
    assert set(re.findall(r"AdamW: (\w+): ", caplog.text)) == told
