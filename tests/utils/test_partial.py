"""Folders for a while: gone at the end, or with the next one after a kill."""

import subprocess
import sys

from espnet_des.utils.partial import partial_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from espnet_des.utils.partial import partial_folder
with partial_folder(Path(sys.argv[1]), "models") as folder:
    (folder / "sub").mkdir()
    (folder / "sub/file").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_for_a_while(tmp_path):
    with partial_folder(tmp_path, "models") as one, partial_folder(tmp_path, "models") as two:
        assert one != two and one.parent == two.parent == tmp_path
        (one / "file").write_text("x")
        assert len(list(tmp_path.iterdir())) == 2
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_killed_process_goes_with_the_next(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path]).returncode == -9
    (left,) = tmp_path.iterdir()
    with partial_folder(tmp_path, "others"):
        assert left.exists()
    with partial_folder(tmp_path, "models") as folder:
        assert list(tmp_path.iterdir()) == [folder]
