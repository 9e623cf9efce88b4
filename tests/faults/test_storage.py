"""Full disks, and checkpoints that are damaged or of somebody else."""

import errno
import resource

import pytest
import torch

from espnet_des.training import checkpoints
from tests.faults.process import assert_same_training, plain, run
from tests.faults.test_kills import finish, last_log
from tests.train import load

pytestmark = pytest.mark.faults


def no_room(rank: int) -> None:
    """Files cannot grow beyond 60 kB: a checkpoint is larger."""
    torch.save = torch.serialization.save  # as it is, not in halves
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))


def files(exp):
    return {p.name: p.read_bytes() for p in exp.iterdir() if p.is_file()}


def test_a_full_disk_stops_the_training_and_loses_nothing(
    undisturbed, interrupted, data, faults
):
    out, changes = interrupted
    before = files(out / "exp")
    assert run(data, out, patch=no_room, **changes) == 1
    assert "checkpoint.pth cannot be written" in last_log(out)
    assert "make room on the disk and start again" in last_log(out)
    after = files(out / "exp")
    assert all(after[name] == before[name] for name in before if name.endswith(".pth"))
    assert not list((out / "exp").glob("*.partial*"))
    finish(data, out, changes)
    assert_same_training(undisturbed[0] / "exp", out / "exp")
    faults(1)


def damaged(path, how):
    content = path.read_bytes()
    if how == "foreign":
        return torch.save({"weight": torch.zeros(3)}, path)
    if how == "flipped":
        middle = len(content) // 2
        content = content[:middle] + bytes(100) + content[middle + 100 :]
    elif how == "code":
        content = b"cposix\nsystem\n(S'touch executed'\ntR."
    path.write_bytes({"empty": b"", "truncated": content[:-1000]}.get(how, content))


@pytest.mark.parametrize("how", ["empty", "truncated", "flipped", "foreign", "code"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    undisturbed, interrupted, data, how, faults
):
    out, changes = interrupted
    damaged(out / "exp/checkpoint.pth", how)
    finish(data, out, changes)
    assert "cannot be read" in last_log(out) and "checkpoint.previous.pth" in last_log(out)
    assert not list(out.rglob("executed"))
    assert_same_training(undisturbed[0] / "exp", out / "exp")
    faults(1)


def test_a_damaged_checkpoint_never_becomes_the_one_before(
    undisturbed, interrupted, data, faults
):
    """Damaged twice: each time what stands behind it is whole."""
    out, changes = interrupted
    exp = out / "exp"
    assert run(data, out, **changes | {"max_epoch": 4}) == 0
    for epoch in (4, 5):
        damaged(exp / "checkpoint.pth", "truncated")
        content = (exp / "checkpoint.pth").read_bytes()
        assert run(data, out, **changes | {"max_epoch": epoch}) == 0, last_log(out)
        assert "checkpoint.previous.pth" in last_log(out)
        assert (exp / "checkpoint.damaged.pth").read_bytes() == content
        assert load(exp / "checkpoint.previous.pth")["reporter"]["epoch"] == epoch - 1
    finish(data, out, changes)
    last = [plain(load(folder / "exp/checkpoint.pth")) for folder in (undisturbed[0], out)]
    assert last[0] == last[1]
    faults(2)


def test_both_checkpoints_damaged_stop_the_training(interrupted, data, faults):
    out, changes = interrupted
    for name in ("checkpoint.pth", "checkpoint.previous.pth"):
        damaged(out / "exp" / name, "truncated")
    before = files(out / "exp")
    assert run(data, out, **changes) == 1
    assert "Nothing was overwritten" in last_log(out)
    faults(1)
    assert (
        files(out / "exp").items() >= {k: v for k, v in before.items() if ".pth" in k}.items()
    )


def test_an_epoch_that_is_gone_is_left_out_of_the_average(interrupted, data, faults):
    """As after a fall back, where ESPnet has removed what is among the best again."""
    out, changes = interrupted
    (out / "exp/3epoch.pth").unlink(missing_ok=True)
    (out / "exp/4epoch.pth").unlink(missing_ok=True)  # comes back, from checkpoint.pth
    more = {"keep_nbest_models": 3, "best_model_criterion": [["valid", "cer_ctc", "min"]]}
    finish(data, out, changes | more)
    average = load(out / "exp/valid.cer_ctc.ave.pth")
    assert float(average["encoder.selection.updates"]) == pytest.approx(15.0)  # of 4, 5 and 6
    faults(1)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_what_cannot_be_read_now_is_not_taken_for_damaged(
    tmp_path, monkeypatch, faults, error
):
    def fail(*_, **__):
        raise error

    for name in ("checkpoint.pth", "checkpoint.previous.pth"):
        torch.save({}, tmp_path / name)
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RuntimeError, match="could not be read now .*, but may be whole"):
        checkpoints.read_checkpoint(tmp_path / "checkpoint.pth")
    assert sorted(files(tmp_path)) == ["checkpoint.previous.pth", "checkpoint.pth"]
    faults(1)


def test_a_gpu_that_fails_while_saving_is_not_taken_for_a_full_disk(
    tmp_path, monkeypatch, faults
):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "save", fail)
    with checkpoints.whole_files(), pytest.raises(RuntimeError, match="^CUDA error"):
        torch.save({}, tmp_path / "checkpoint.pth")
    assert not files(tmp_path)
    faults(1)
