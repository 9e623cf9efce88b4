"""Commands of the stages: they end with the driver."""

import signal
import subprocess
import sys

import pytest

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
