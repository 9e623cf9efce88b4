"""The selection between updates, on several processes and over long schedules."""

import pytest
import torch
import torch.multiprocessing

from espnet_des.method.options import SelectionOptions
from espnet_des.method.selection import Schedule
from espnet_des.method.state import SelectionState
from espnet_des.method.tracker import SelectionTracker

SIZES = [2, 4]


def make_tracker(schedule: Schedule, **options) -> SelectionTracker:
    state = SelectionState(SIZES, "espnet")
    state.set_schedule(schedule)
    chosen = SelectionOptions(**options)
    return SelectionTracker(state, chosen.selector(SIZES[-1]), chosen)


def choose(rank: int, method: str, folder: str) -> None:
    """Of two processes: their scores differ in the last bit, as on two kinds of GPUs."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    scores = torch.tensor([1.0, 1.0, 1.0, 0.5])
    scores[rank] = torch.nextafter(scores[rank], torch.tensor(2.0))  # its own best layer
    scores[rank + 1] = torch.nextafter(scores[rank + 1], torch.tensor(2.0))
    tracker = make_tracker(Schedule((1,), (2,)), method=method)
    for _ in range(3):
        tracker.after_step(scores)
    torch.save((tracker.state.state_dict(), scores), f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out"])
def test_of_several_processes_the_first_decides(method, tmp_path):
    torch.multiprocessing.spawn(choose, (method, str(tmp_path)), nprocs=2)
    (one, of_one), (two, of_two) = (
        torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1)
    )
    assert one["ranking"][:2].tolist() == [0.0, 1.0]
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert torch.equal(of_one, of_two) == (method == "iterative_zero_out")  # zeroed, and sent


@pytest.mark.parametrize("last", [1, 2, 3, 9])
def test_averaged_updates_are_counted_without_looking_at_each(last, monkeypatch):
    options = SelectionOptions(averaged_iterations=last)
    schedule = Schedule((4, 4, 3), (1, 2, 3))
    for done in range(20):
        counted = sum(options.is_averaged(schedule, t) for t in range(min(done, 12)))
        assert options.count_averaged(schedule, done) == counted
    # A run of LibriSpeech's length is not recounted at each batch of a validation.
    long = Schedule((234_240, 234_240), (1, 2))
    tracker = make_tracker(long, averaged_iterations=1)
    tracker.state.updates.fill_(468_481)
    tracker.state.score_sum.fill_(234_240.0)
    looked = []
    monkeypatch.setattr(SelectionOptions, "is_averaged", lambda *_: looked.append(1))
    mean = tracker.final_scores(torch.zeros(4))
    assert torch.equal(mean, torch.ones(4).double()) and not looked
