"""Several processes: uneven data, and one of them killed."""

import functools
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tests.faults.process import Death, assert_same_training, start
from tests.faults.test_kills import last_log
from tests.faults.test_storage import damaged
from tests.train import assert_same, load

pytestmark = pytest.mark.faults

LONG = 300  # seconds; what a hanging process would exceed by far

CHANGES = {
    "max_epoch": 5, "batch_size": 3, "accum_grad": 1, "unused_parameters": False,
    "model_conf__stochastic_depth_p1": 0.5, "model_conf__stochastic_depth_p2": 0.5,
}  # fmt: skip


def wait(processes, out):
    for process in processes:
        process.join(LONG)
        assert process.exitcode is not None, f"still running: {last_log(out)[-3000:]}"
    return [process.exitcode for process in processes]


def one_batch_less(rank: int, short: int, out: Path) -> None:
    """As where the parts of the data give unequal numbers of batches.

    Every rank tells what it ends with.
    """
    from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
    from espnet_des.training.trainer import SupernetTrainer

    init, run = SequenceIterFactory.__init__, SupernetTrainer.run.__func__

    def uneven(self, dataset, batches, *args, shuffle=False, **kwargs):
        if shuffle and rank == short:  # of the training
            batches = batches[:-1]
        init(self, dataset, batches, *args, shuffle=shuffle, **kwargs)

    def run_and_tell(cls, model, **kwargs):
        run(cls, model=model, **kwargs)
        torch.save(model.state_dict(), out / f"rank{rank}.pth")

    SequenceIterFactory.__init__ = uneven
    SupernetTrainer.run = classmethod(run_and_tell)


# 14 utterances in batches of 3 are 4 of them, and 3 where one is missing; of 2, 7 and 6.
@pytest.mark.parametrize("ranks, short, batch_size, accum_grad, updates", [
    (2, 0, 3, 1, 3), (2, 1, 3, 1, 3), (3, 0, 3, 1, 3), (3, 2, 3, 1, 3),
    (2, 0, 2, 2, 3), (2, 1, 2, 4, 1),
])  # fmt: skip
def test_ranks_with_uneven_numbers_of_batches_agree(
    data, tmp_path, ranks, short, batch_size, accum_grad, updates
):
    """All stop with the first; schedule, counter and kept layers are those of all."""
    changes = CHANGES | {
        "model_conf__updates_per_iteration": None,  # depends on the length
        "batch_size": batch_size, "accum_grad": accum_grad, "max_epoch": 12 // updates,
    }  # fmt: skip
    patch = functools.partial(one_batch_less, short=short, out=tmp_path)
    processes = start(data, tmp_path, ranks=ranks, patch=patch, **changes)
    assert set(wait(processes, tmp_path)) == {0}, last_log(tmp_path)[-3000:]
    first, *others = (load(tmp_path / f"rank{rank}.pth") for rank in range(ranks))
    assert first["encoder.selection.updates"] == 12
    assert first["encoder.selection.schedule"].sum(0)[0] == 5  # 1 in each of 5 iterations
    assert first["encoder.selection.ranking"].any()
    for other in others:
        assert_same(first, other)
    assert_same(first, load(tmp_path / "exp/checkpoint.pth")["model"])


def nan_of_an_utterance(rank: int) -> None:
    """In a batch of one rank: the mean over the ranks is NaN for all."""
    from espnet_des.nn.model import DESModel

    forward = DESModel.forward

    def with_nan(self, *args, **kwargs):
        loss, stats, weight = forward(self, *args, **kwargs)
        is_bad = self.training and "u11" in kwargs["utt_id"]
        if is_bad:
            print("NaN in", *kwargs["utt_id"], flush=True)
        return loss * (float("nan") if is_bad else 1.0), stats, weight

    DESModel.forward = with_nan


def test_what_a_rank_could_not_learn_is_named_by_it(data, tmp_path, faults):
    """ESPnet lets only errors of the others through."""
    changes = CHANGES | {"max_epoch": 2, "model_conf__updates_per_iteration": [1, 1, 1, 1, 1]}
    assert set(wait(start(data, tmp_path, ranks=2, patch=nan_of_an_utterance, **changes),
                    tmp_path)) == {0}, last_log(tmp_path)[-3000:]  # fmt: skip
    found = [log.read_text() for log in sorted(tmp_path.glob("*0.txt"))]
    bad = [re.findall("NaN in (.*)", text) for text in found]
    assert sum(map(len, bad)) == 2 and bad[1]
    for text, own in zip(found, bad):
        for utts in own[:1]:  # that of the last epoch may have no batch after it
            assert re.search(f"was skipped: .*Utterances: {utts}\n", text)
    faults(2)


def test_ranks_fall_back_to_the_same_checkpoint(data, tmp_path, faults):
    """Each looks for itself, the first puts the damaged one aside meanwhile."""
    whole, out = tmp_path / "whole", tmp_path / "damaged"
    assert set(wait(start(data, whole, ranks=2, **CHANGES), whole)) == {0}
    shutil.copytree(whole / "exp", out / "exp", symlinks=True)
    damaged(out / "exp/checkpoint.pth", "truncated")
    assert set(wait(start(data, out, ranks=2, **CHANGES), out)) == {0}, last_log(out)[-3000:]
    assert "resuming from" in last_log(out) and "checkpoint.previous.pth" in last_log(out)
    assert_same_training(whole / "exp", out / "exp")
    faults(1)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("dies", ["first", "last"])
def test_a_killed_rank_ends_the_others_and_the_run_resumes(
    data, tmp_path, ranks, dies, faults
):
    whole, out = tmp_path / "whole", tmp_path / "killed"
    killed = 0 if dies == "first" else ranks - 1
    # The last rank writes no files: its events are its updates.
    death = Death(25 if killed == 0 else 10, killed)
    codes = wait(start(data, out, death, ranks=ranks, **CHANGES), out)
    assert codes.pop(killed) == -signal.SIGKILL
    assert all(code not in (0, None) for code in codes)
    epoch = load(out / "exp/checkpoint.pth")["reporter"]["epoch"]
    assert set(wait(start(data, out, ranks=ranks, **CHANGES), out)) == {0}, last_log(out)
    # DDP adds the gradients in another order in the first update of a process. Of two ranks
    # the sum is the same; three are compared with a run that also stopped there.
    for last in [CHANGES["max_epoch"]] if ranks == 2 else [epoch, CHANGES["max_epoch"]]:
        changes = CHANGES | {"max_epoch": last}
        assert set(wait(start(data, whole, ranks=ranks, **changes), whole)) == {0}
    assert_same_training(whole / "exp", out / "exp")
    faults(1)
