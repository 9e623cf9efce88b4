"""What all runs are compared with: trainings that nothing disturbed."""

import signal

import pytest

from tests.faults.process import UPDATE, Death, run
from tests.train import make_data

# Six epochs of 3 updates; stage 1 ends within epoch 2 or with epoch 3.
# The best by one criterion is about the worst by the other: links move, epochs are removed.
RUN = {
    "max_epoch": 6, "keep_nbest_models": 2,
    "best_model_criterion": [["valid", "loss", "min"], ["train", "loss_ctc_size3", "max"]],
}  # fmt: skip
METHODS = {
    "simple_top_k": RUN,
    "iterative_zero_out": RUN | {
        "model_conf__method": "iterative_zero_out",
        "model_conf__reduction": None, "model_conf__zeroed": [2, 4, 5],
        "model_conf__updates_per_iteration": [2, 3, 3], "model_conf__stochastic_depth_p1": 0.4,
    },
}  # fmt: skip


@pytest.fixture
def faults(record_property):
    """Call it with the number of faults that a test injects; the summary tells the sum."""
    return lambda number: record_property("faults", number)


def pytest_terminal_summary(terminalreporter):
    for outcome in ("passed", "failed"):
        of_tests = [report.user_properties for report in terminalreporter.getreports(outcome)]
        number = sum(value for found in of_tests for name, value in found if name == "faults")
        terminalreporter.write_line(f"faults injected in tests that {outcome}: {number}")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.fixture(scope="session", params=METHODS)
def undisturbed(request, data, tmp_path_factory):
    """A finished training's folder, and what it was trained with."""
    folder, changes = tmp_path_factory.mktemp(request.param), METHODS[request.param]
    assert run(data, folder, **changes) == 0, (folder / "log0.txt").read_text()[-3000:]
    return folder, changes


@pytest.fixture
def interrupted(undisturbed, data, tmp_path):
    """A training that was killed in its fifth epoch."""
    folder, changes = undisturbed
    events = (folder / "events.txt").read_text().splitlines()
    at = 1 + next(i for i, event in enumerate(events) if event == f"{UPDATE} (14,)")
    assert run(data, tmp_path, Death(at), **changes) == -signal.SIGKILL
    return tmp_path, changes
