"""Files that are there whole or not at all: several writers, killed ones, machines that stop."""

import errno
import os
import re
import subprocess
import sys
import threading
import time

import pytest
import torch

from espnet_des.utils import partial as naming
from espnet_des.utils.files import write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def killed_writer(path):
    """Starts a file in a process of its own, which dies of it; returns what it left."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from espnet_des.utils.files import write_atomically\n"
        "def write(partial):\n"
        "    partial.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), write)\n"
    )
    before = set(path.parent.iterdir())
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    (left,) = set(path.parent.iterdir()) - before
    return left


def test_two_writers_of_a_file_do_not_meet(tmp_path):
    """Each one's is whole; the one that ends last is there."""
    path = tmp_path / "file"
    began, may_end = threading.Event(), threading.Event()

    def slow(partial):
        partial.write_text("of the slow one, ")
        began.set()
        may_end.wait()
        with partial.open("a") as file:
            file.write("whole")

    first = threading.Thread(target=write_atomically, args=(path, slow))
    first.start()
    began.wait()
    write_atomically(path, lambda partial: partial.write_text("of the fast one"))
    assert path.read_text() == "of the fast one"
    may_end.set()
    first.join()
    assert path.read_text() == "of the slow one, whole"
    assert names(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "file"
    left = killed_writer(path)
    other = killed_writer(tmp_path / "file.too")  # begins alike, but is another file's
    write_atomically(path, lambda partial: partial.write_text("whole"))
    assert not left.exists() and other.exists() and path.read_text() == "whole"


def test_what_a_living_writer_makes_stays(tmp_path):
    left = killed_writer(tmp_path / "file")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        of_living = left.with_name(re.sub(r"-\d+-1$", f"-{living.pid}-1", left.name))
        left.rename(of_living)
        write_atomically(tmp_path / "file", lambda partial: partial.write_text("whole"))
        assert names(tmp_path) == ["file", of_living.name]
        living.communicate(b"\n")
    write_atomically(tmp_path / "file", lambda partial: partial.write_text("whole"))
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["file.partial-0123abcd-1-1", "file.partial"])
def test_of_another_machine_only_what_is_old_is_removed(tmp_path, name):
    """Nobody can see from here whether its process lives; the second name is of old versions."""
    left, now = tmp_path / name, time.time()
    left.write_text("half")
    for age, stays in ((naming.OLD_SECONDS - 600, True), (naming.OLD_SECONDS + 600, False)):
        os.utime(left, (now - age, now - age))
        write_atomically(tmp_path / "file", lambda partial: partial.write_text("whole"))
        assert left.exists() == stays


def test_a_model_file_does_not_tell_who_wrote_it(tmp_path):
    """torch.save writes the name that it is given into the file."""
    path = tmp_path / "model.pth"
    contents = []
    for _ in range(2):
        write_atomically(path, lambda partial: torch.save({"weight": torch.ones(3)}, partial))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] and b"partial" not in contents[0]


def test_a_failed_writer_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def fail(partial):
        partial.write_text("half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_atomically(path, fail)
    assert names(tmp_path) == ["file"] and path.read_text() == "before"


def synced(monkeypatch, error=None):
    """Notes, in their order, what is synced and put in its place."""
    seen, fsync, replace = [], os.fsync, os.replace

    def note(descriptor):
        is_folder = os.path.isdir(f"/dev/fd/{descriptor}")
        seen.append("folder" if is_folder else "file")
        if is_folder and error:
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", lambda *a, **k: (seen.append("name"), replace(*a, **k)))
    return seen


def test_the_content_is_synced_then_put_in_place_then_its_name_is_synced(
    tmp_path, monkeypatch
):
    seen = synced(monkeypatch)
    write_atomically(tmp_path / "file", lambda partial: partial.write_text("whole"))
    assert seen == ["file", "name", "folder"]
    write_atomically(tmp_path / "link", lambda partial: partial.symlink_to("file"))
    assert seen[3:] == ["name", "folder"]


def test_a_file_system_that_cannot_sync_folders_is_none_the_worse(tmp_path, monkeypatch):
    synced(monkeypatch, errno.EINVAL)
    write_atomically(tmp_path / "file", lambda partial: partial.write_text("whole"))
    assert (tmp_path / "file").read_text() == "whole"
    synced(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "file", lambda partial: partial.write_text("whole"))
