"""Killed at any moment and started again, a training ends as if nothing had been."""

import random
import signal
import time

import pytest

from tests.faults.process import UPDATE, Death, assert_same_training, run, start

pytestmark = pytest.mark.faults

SHARES = 4  # of the moments, for several workers of pytest


def finish(data, out, changes) -> None:
    assert run(data, out, **changes) == 0, last_log(out)


def last_log(out) -> str:
    return max(out.glob("log*.txt"), key=lambda p: p.stat().st_mtime).read_text()


@pytest.mark.parametrize("share", range(SHARES))
def test_killed_before_each_update_and_each_step_of_saving(
    undisturbed, data, tmp_path, share, faults
):
    """Half a checkpoint written, links not set, in the middle of averaging, and so on."""
    folder, changes = undisturbed
    events = (folder / "events.txt").read_text().splitlines()
    assert sum(event.startswith(UPDATE) for event in events) == 18 and len(events) > 60
    for at in range(1 + share, len(events) + 1, SHARES):
        out = tmp_path / str(at)
        assert run(data, out, Death(at), **changes) == -signal.SIGKILL, last_log(out)
        finish(data, out, changes)
        assert_same_training(folder / "exp", out / "exp")
    faults(len(range(1 + share, len(events) + 1, SHARES)))


@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again(undisturbed, data, tmp_path, seed, faults):
    """By somebody else, at moments that no one chose; six times."""
    folder, changes = undisturbed
    begin = time.monotonic()
    finish(data, tmp_path / "timed", changes)
    whole = time.monotonic() - begin
    rng, kills, resumed, chain = random.Random(seed), 0, 0, 0
    while kills < 6 or not resumed:
        out = tmp_path / str(chain)
        (process,) = start(data, out, **changes)
        process.join(rng.uniform(0.1, 1) * whole)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            resumed += (out / "exp/checkpoint.pth").exists()
        else:  # it came to its end first: once more
            assert process.exitcode == 0, last_log(out)
            assert_same_training(folder / "exp", out / "exp")
            chain += 1
    finish(data, out, changes)
    assert_same_training(folder / "exp", out / "exp")
    faults(kills)


def test_killed_while_the_first_run_starts(undisturbed, data, tmp_path, faults):
    """config.yaml half written, no checkpoint yet."""
    folder, changes = undisturbed
    deadline, delay = time.monotonic() + 60, 0.02
    (process,) = start(data, tmp_path, **changes)
    while not (tmp_path / "exp/config.yaml").exists():
        assert time.monotonic() < deadline
        time.sleep(delay)
    process.kill()
    process.join()
    (tmp_path / "exp/config.yaml").write_text("accum_gr")
    finish(data, tmp_path, changes)
    assert_same_training(folder / "exp", tmp_path / "exp")
    faults(1)
