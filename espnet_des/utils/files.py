"""Files that are there whole or not at all, and folders that one process writes."""

import contextlib
import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from espnet_des.utils.partial import partial_name, remove_leftovers

DYING_SECONDS = 10  # workers of a process that was killed hold its files a little longer
# What file systems say that keep no order of names, or do not let folders be synced.
CANNOT_SYNC = (
    errno.EINVAL,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EBADF,
    errno.EACCES,
    errno.EPERM,
)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file (or link) beside ``path``, then put it in its place.

    Several may do so at once: the last one's stays, whole.
    """
    remove_leftovers(path)
    partial = partial_name(path)
    partial.unlink(missing_ok=True)  # of one with our number, before a restart of a container
    try:
        write(partial)
        if not partial.is_symlink():
            sync_file(partial)
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_lines(path: Path, lines: list[str] | None) -> None:
    """Write a file whole, or remove it where there are no lines to be (None)."""
    if lines is None:
        path.unlink(missing_ok=True)
    else:
        text = "".join(f"{line}\n" for line in lines)
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def make_writable(folder: Path) -> None:
    """Make a folder, and raise OSError now where no file can be written there later."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def sync_file(path: Path) -> None:
    """Else a machine that stops may keep a file's new name without the content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Let the names in a folder outlast a machine that stops, where its file system can."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not be listed
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(opened)


@contextlib.contextmanager
def alone_in(folder: Path, what: str, lock: str = ".lock"):
    """Refuse a second process that would write the same folder; gives the open lock.

    Args:
        folder: is made where it is not there.
        what: runs in it, for the message.
        lock: name of the file that is locked.

    Raises:
        RuntimeError: where another one is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / lock).open("w") as file:  # freed however the process ends
        until = time.monotonic() + DYING_SECONDS
        while not _lock(file):
            if time.monotonic() > until:
                raise RuntimeError(
                    f"another {what} runs in {folder}: wait for it, or stop it and start "
                    "again, which goes on where it was"
                )
            time.sleep(0.5)
        yield file


def _lock(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nothing can be told
        pass
    return True
