"""Killed while it measures, a report leaves neither processes nor folders behind."""

import os
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest

from espnet_des.measure.worker import Worker
from espnet_des.utils.threads import SETTINGS, wait_asleep
from tests.living import children, wait_for_the_end, wait_until
from tests.train import make_data, train_here

# Also where pytest itself ignores the interrupt, in the background of a shell.
COMMAND = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("espnet_des.bin.report", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    return train_here(folder, folder, max_epoch=3)


def test_a_worker_waits_as_applications_do(supernet):
    files = supernet / "config.yaml", supernet / "valid.cer_ctc.ave.pth"
    with mock.patch.dict(os.environ):
        for name in SETTINGS:
            os.environ.pop(name, None)
        wait_asleep()
        with Worker(*files, seconds=1.0) as worker:
            assert worker._pool.submit(os.getenv, "OMP_WAIT_POLICY").result() is None
            assert worker.recognise(threads=1) > 0
            assert worker.recognise(threads=1, clock=time.process_time) > 0


def test_a_killed_report_leaves_nothing(supernet, tmp_path):
    script, out = tmp_path / "report.py", tmp_path / "out"
    script.write_text(f"if __name__ == '__main__':\n    exec({COMMAND!r})\n")
    command = [sys.executable, script, "--asr_train_config", supernet / "config.yaml",
               "--asr_model_file", supernet / "valid.cer_ctc.ave.pth",
               "--output_dir", out, "--seconds", "1", "--rounds", "1000000"]  # fmt: skip
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        log = (tmp_path / f"{number}.txt").open("w")
        with subprocess.Popen(command, stdout=log, stderr=log) as report:
            # A worker for each of three sizes, beside multiprocessing's own process.
            theirs = wait_until(lambda: len(c := children(report.pid)) == 4 and c)
            report.send_signal(number)
            report.wait()
        wait_for_the_end(theirs)
        # What the first could not remove is removed by the second.
        assert len(list(out.iterdir())) == (number == signal.SIGKILL)
