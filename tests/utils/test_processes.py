"""Processes that end with the one that started them, however that one dies."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.living import children, wait_for_the_end, wait_until

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL]
# Also where pytest itself ignores the interrupt, in the background of a shell.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
CHILD = """
import sys, time
from pathlib import Path
from espnet_des.utils.processes import end_with_parent
end_with_parent()
Path(sys.argv[1]).write_text("")
time.sleep(1000)
"""
# Below a shell, as a recipe's steps are.
STARTS_A_COMMAND = (
    INTERRUPTIBLE
    + """
import subprocess, sys
from pathlib import Path
from espnet_des.utils.command import as_command
from espnet_des.utils.partial import partial_folder
from espnet_des.utils.processes import lifeline
with as_command(), partial_folder(Path(sys.argv[1]), "models"):
    command = [sys.executable, "-c", sys.argv[2], sys.argv[1] + "/began"]
    subprocess.call(["bash", "-c", '"$@"; true', "bash", *command], **lifeline())
"""
)
STARTS_WORKERS = (
    INTERRUPTIBLE
    + """
import sys, time
from pathlib import Path
from espnet_des.utils.command import as_command
from espnet_des.utils.partial import partial_folder
from espnet_des.utils.processes import spawned
if __name__ == "__main__":
    with as_command(), partial_folder(Path(sys.argv[1]), "models"), spawned(2) as pool:
        for _ in range(2):
            pool.submit(time.sleep, 1000)
        pool.submit(time.sleep, 0)
        Path(sys.argv[1] + "/began").write_text("")
        time.sleep(1000)
"""
)


def start(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
                            stderr=subprocess.PIPE, **options)  # fmt: skip


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "code", [STARTS_A_COMMAND, STARTS_WORKERS], ids=["command", "workers"]
)
def test_what_a_command_starts_ends_with_it(tmp_path, code, number):
    (tmp_path / "script.py").write_text(code)  # a worker imports it
    with subprocess.Popen([sys.executable, tmp_path / "script.py", tmp_path, CHILD],
                          stderr=subprocess.DEVNULL) as parent:  # fmt: skip
        wait_until((tmp_path / "began").exists)
        theirs = wait_until(lambda: len(c := children(parent.pid)) >= 2 and c)
        parent.send_signal(number)
        parent.wait()
        wait_for_the_end(theirs)
        expected = {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT, signal.SIGKILL: -9}
        assert parent.returncode == expected[number]
    # Nobody can tidy up after himself who is killed.
    assert bool(list(tmp_path.glob("models.*"))) == (number == signal.SIGKILL)


def test_a_child_that_comes_late_ends_at_once(tmp_path):
    """Its parent died before it could look."""
    read, write = os.pipe()
    about = os.fstat(read)
    os.close(write)
    name = {"ESPNET_DES_LIFELINE": f"{read}:{about.st_dev}:{about.st_ino}"}
    with start(CHILD, tmp_path / "began", env=os.environ | name, pass_fds=[read]) as child:
        assert child.wait() == -signal.SIGTERM
    os.close(read)


@pytest.mark.parametrize(
    "name", ["", "x", "0", "99999:1:2", "{file}:1:2", "{file}:{dev}:{ino}"]
)
def test_a_file_that_took_the_number_is_not_taken_for_the_lifeline(tmp_path, name):
    """An empty file is at its end as well."""
    with (tmp_path / "empty").open("w+") as file:
        about = os.fstat(file.fileno())
        name = name.format(file=file.fileno(), dev=about.st_dev, ino=about.st_ino)
        code = "import time; from espnet_des.utils.processes import end_with_parent as e; e(); " \
               "time.sleep(0.2)"  # fmt: skip
        with start(code, env=os.environ | {"ESPNET_DES_LIFELINE": name},
                   pass_fds=[file.fileno()]) as child:  # fmt: skip
            assert child.wait() == 0, child.stderr.read()


def test_signals_that_are_ignored_stay_so():
    """As a shell ignores the interrupt of what it runs in the background."""
    code = """
    import os, signal
    from espnet_des.utils.processes import stopped_by_signals
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopped_by_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """
    with start(code) as process:
        assert process.wait() == 0, process.stderr.read()
