"""Names of what is being made, which tell who makes it; leftovers of killed makers go.

``model.pth.partial-3f2a9c01-4711-1``: of model.pth, by process 4711 of machine 3f2a9c01.
Behind the last dot, since torch.save writes what stands before it into the file.
"""

import contextlib
import hashlib
import itertools
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Whether a process of another machine lives cannot be seen; nothing is made for so long.
OLD_SECONDS = 24 * 3600
_numbers = itertools.count(1)


def partial_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer takes, in this process or another."""
    return path.with_name(f"{path.name}{_mark()}{next(_numbers)}")


def remove_leftovers(path: Path) -> None:
    """Remove what killed makers of ``path`` have left; what a living one makes stays.

    Of this machine the process must be dead; on another one, whose disk this is too, or
    before a restart of the machine, nothing may have happened to it for a day.
    """
    form = re.compile(rf"{re.escape(path.name)}\.partial(?:-([0-9a-f]{{8}})-(\d+)-\w+)?")
    # Of other users in a shared folder, or just now removed by another process: not ours.
    with contextlib.suppress(OSError):
        for found in os.scandir(path.parent):
            match = form.fullmatch(found.name)
            if match and _is_left_over(found, match[1], match[2]):
                if found.is_dir(follow_symlinks=False):
                    shutil.rmtree(found, ignore_errors=True)
                else:
                    Path(found).unlink(missing_ok=True)


@contextlib.contextmanager
def partial_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder for what is needed for a while only; removed at the end.

    Where the process is killed, the next one that wants a folder of this name removes it.

    Args:
        parent: where to make it.
        name: what it is for.
    """
    folder = make_partial_folder(parent, name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_partial_folder(parent: Path, name: str) -> Path:
    """The same for one who removes it himself."""
    remove_leftovers(parent / name)
    return Path(tempfile.mkdtemp(prefix=f"{name}{_mark()}", dir=parent))


def _mark() -> str:
    return f".partial-{_machine()}-{os.getpid()}-"


def _machine() -> str:
    """Where numbers of processes mean the same: a machine until it restarts, or a container."""
    try:
        parts: tuple[str, ...] = (
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            os.readlink("/proc/self/ns/pid"),
        )
    except OSError:
        parts = (platform.node(),)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


def _is_left_over(found: os.DirEntry, machine: str | None, process: str | None) -> bool:
    if machine == _machine() and process is not None:
        return not _lives(int(process))
    return time.time() - found.stat(follow_symlinks=False).st_mtime > OLD_SECONDS


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True
