"""Commands of the stages: they end with the driver; their progress is shown."""

import io
import re
import signal
import subprocess
import sys

import pytest

from espnet_des.recipe import process
from tests.living import children, wait_for_the_end, wait_until

# Two at once, as stage 10 and 12 start them, or one, as stage 11 does.
DRIVER = """
import argparse, signal, sys
from pathlib import Path
from espnet_des.recipe.jobs import run_in_parts
from espnet_des.recipe.process import run_logged
from espnet_des.utils.command import as_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
folder = Path(sys.argv[1])
def command(job):
    code = f"import pathlib, time; pathlib.Path('{folder}/{job}').touch(); time.sleep(1000)"
    return [sys.executable, "-m", "espnet_des", "-c", code]
with as_command():
    if sys.argv[2] == "one":
        run_logged(command(1), folder / "train.log")
    run_in_parts({"keys": ["a", "b"]}, 2, folder / "logdir", "stats", command)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("how_many", ["one", "several"])
def test_a_killed_driver_takes_its_commands_with_it(tmp_path, number, how_many):
    command = [sys.executable, "-c", DRIVER, tmp_path, how_many]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        for job in range(1, 2 if how_many == "one" else 3):
            wait_until((tmp_path / str(job)).exists)
        theirs = children(driver.pid)
        assert theirs
        driver.send_signal(number)
        driver.wait()
    wait_for_the_end(theirs)


# ---- the progress of a training ----------------------------------------------

# As asr_train wrote them; long lines are cut short.
LOG = """\
[vm] 2026-11-24 15:18:08,863 (abs_task:1921) INFO: [train] mini-batch sizes summary: N-batch=7, mean=2.0, min=2, max=2
[vm] 2026-11-24 15:18:08,866 (abs_task:1921) INFO: [valid] mini-batch sizes summary: N-batch=7, mean=2.0, min=2, max=2
[vm] 2026-11-24 15:18:08,873 (trainer:334) INFO: 1/4epoch started
[vm] 2026-11-24 15:18:08,957 (trainer:810) INFO: 1epoch:train:1-2batch: iter_time=0.001, forward_time=0.030loss_ctc_size5=nan, loss_ctc=16.780, stage=1.000
[vm] 2026-11-24 15:18:09,013 (trainer:810) INFO: 1epoch:train:3-4batch: iter_time=0.001, forward_time=0.015, loss_ctc_size5=nan, loss_ctc=15.383loss_ctc_size3=13.714, stage=1.000
[vm] 2026-11-24 15:18:09,192 (trainer:392) INFO: 1epoch results: [train] iter_time=0.002, forward_time=0.021, loss_ctc_size5=nan, loss_ctc=14.523, stage=1.000, total_count=7, [valid] loss_ctc_size3=10.992, cer_ctc_size3=1.000, loss_ctc=10.560, cer_ctc=0.985, loss=17.200, stage=1.000, score_margin=0.010, time=0.09 seconds, total_count=8
[vm] 2026-11-24 15:18:09,235 (trainer:322) INFO: 2/4epoch started. Estimated time to finish: 1.09 seconds
[vm] 2026-11-24 15:18:09,300 (trainer:810) INFO: 2epoch:train:1-2batch: iter_time=0.001, forward_time=0.021loss_ctc_size5=nan, loss_ctc=10.376, stage=1.000
""".splitlines()  # noqa: E501


class Screen(io.StringIO):
    """Takes what is written; a terminal, or a file."""

    def __init__(self, is_terminal):
        super().__init__()
        self.isatty = lambda: is_terminal

    def states(self):
        """What stood on the line, one after the other: share, epochs, and the rest."""
        form = re.compile(
            r"training: +(\d+)%\|.*?\| ([\d.]+)/(\d+) \[[^,]*, [^,\]]*(?:, )?(.*)\]"
        )
        return [(m[2], m[3], m[4]) for m in map(form.match, self.getvalue().split("\r")) if m]


def shown(monkeypatch, lines, config, is_terminal=True, seconds_each=1.0):
    """States of the bar while a log's lines come in."""
    screen, now = Screen(is_terminal), [1000.0]
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(process.time, "monotonic", lambda: now[0])
    progress = process.TrainingProgress(config)
    for line in lines:
        now[0] += seconds_each
        progress(line)
    states = screen.states()
    progress.close()
    return states


def test_the_bar_of_a_training_moves_within_an_epoch(monkeypatch, tmp_path):
    assert shown(monkeypatch, LOG, tmp_path / "config.yaml") == [
        ("0", "4", ""), ("0.29", "4", "batch=2/7"), ("0.57", "4", "batch=4/7"),
        ("1", "4", "stage=1, cer_size3=100.0%, cer=98.5%"),
        ("1.29", "4", "batch=2/7, stage=1, cer_size3=100.0%, cer=98.5%"),
    ]  # fmt: skip


def test_an_epoch_may_have_another_number_of_batches_than_the_data(monkeypatch, tmp_path):
    (tmp_path / "config.yaml").write_text("max_epoch: 4\nnum_iters_per_epoch: 5\nseed: 0\n")
    states = shown(monkeypatch, LOG, tmp_path / "config.yaml")
    assert [state[0] for state in states] == ["0", "0.4", "0.8", "1", "1.4"]
    (tmp_path / "config.yaml").write_text("max_epoch: 4\nnum_iters_per_epoch: null\n")
    states = shown(monkeypatch, LOG, tmp_path / "config.yaml")
    assert [state[0] for state in states] == ["0", "0.29", "0.57", "1", "1.29"]
    # Where nothing tells it, the batches are counted.
    states = shown(monkeypatch, LOG[2:], tmp_path / "config.yaml")
    assert [state[0] for state in states] == ["0", "0", "0", "1", "1"]
    assert states[2][2] == "batch=4"


def test_a_training_that_goes_on_begins_where_it_was(monkeypatch, tmp_path):
    states = shown(monkeypatch, LOG[:2] + LOG[-2:], tmp_path / "config.yaml")
    assert [state[:2] for state in states] == [("1", "4"), ("1.29", "4")]


def test_a_file_gets_a_line_now_and_then_and_each_epochs_end(monkeypatch, tmp_path):
    lines = [*LOG[:3], *(LOG[3].replace("1-2", f"{i}-{i}") for i in range(1, 8)), LOG[5]]
    states = shown(monkeypatch, lines, tmp_path / "config.yaml", False, seconds_each=10.0)
    assert [state[0] for state in states] == ["0", "0.14", "0.57", "1.0", "1"]
