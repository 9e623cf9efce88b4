"""Trainings in processes that die, quickly started from one that has imported everything."""

import io
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from tests.train import arguments, load

# What puts files in their places.
FILE_EVENTS = ("os.rename", "os.link", "os.symlink", "os.remove")
HALF_WRITTEN, UPDATE = "espnet_des.half_written", "espnet_des.update"

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["espnet_des", "espnet2.bin.asr_train", "tests.faults.process"])


class Death(NamedTuple):
    """When a training kills itself, without any chance to tidy up.

    Attributes:
        at: number of the event, from 1; 0 for never.
        rank: of the process that dies.
    """

    at: int
    rank: int = 0


def start(data: Path, out: Path, death: Death | None = None, ranks: int = 1,
          patch=None, **changes) -> list[multiprocessing.Process]:  # fmt: skip
    """Start ``asr_train`` on one or several ranks; the logs are ``out/log*.txt``.

    Args:
        death: None lives.
        patch: called in every process before the training, with its rank.
        **changes: of the config, see :func:`tests.train.arguments`.
    """
    command = arguments(data, out, **changes)
    number = len(list(out.glob("log*.txt")))
    if ranks > 1:
        command += ["--dist_world_size", str(ranks), "--dist_backend", "gloo",
                    "--dist_init_method", f"file://{out}/rendezvous{number}"]  # fmt: skip
    processes = []
    for rank in range(ranks):
        log = out / (f"log{number}.txt" if rank == 0 else f"rank{rank}_{number}.txt")
        log.touch()
        of_rank = command + (["--dist_rank", str(rank)] if ranks > 1 else [])
        mine = death if death and death.rank == rank else None
        process = server.Process(target=train, args=(of_rank, log, out, mine, patch, rank))
        process.start()
        processes.append(process)
    return processes


def run(data: Path, out: Path, death: Death | None = None, **kwargs) -> int:
    """Train in one process to its end; returns its exit code (-9: killed)."""
    (process,) = start(data, out, death, **kwargs)
    process.join()
    return process.exitcode


def train(command, log: Path, out: Path, death: Death | None, patch, rank: int) -> None:
    """What a process does; events are counted into ``out/events.txt`` on rank 0."""
    torch.set_num_threads(1)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    count_events(out, death)
    if patch is not None:
        patch(rank)
    import espnet2.bin.asr_train as asr_train

    asr_train.main(cmd=command)


def count_events(out: Path, death: Death | None) -> None:
    """Die at an event, or note all of them."""
    from espnet_des.nn.model import DESModel

    seen: list[str] = []

    def on_event(name: str, details) -> None:
        # It is called before the event happens.
        if name in FILE_EVENTS:
            path = os.fsdecode(details[0 if name == "os.remove" else 1])
            tidies_up = name == "os.remove" and ".partial-" in path
            if not (path.startswith(str(out)) and ".pth" in path) or tidies_up:
                return
        elif name not in (HALF_WRITTEN, UPDATE):
            return
        seen.append(name)
        if death and len(seen) == death.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if death is None:
            fd = os.open(out / "events.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.write(fd, f"{name} {details}\n".encode())
            os.close(fd)

    save, after_step = torch.save, DESModel.after_step

    def save_in_halves(obj, f, *args, **kwargs):
        buffer = io.BytesIO()
        save(obj, buffer, *args, **kwargs)
        content = buffer.getvalue()
        with open(f, "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            sys.audit(HALF_WRITTEN, str(f))
            file.write(content[len(content) // 2 :])

    def after_step_and_tell(self):
        after_step(self)
        sys.audit(UPDATE, int(self.state.updates))

    torch.save, DESModel.after_step = save_in_halves, after_step_and_tell
    sys.addaudithook(on_event)


def links(exp: Path) -> dict[str, str]:
    return {p.name: os.readlink(p) for p in exp.iterdir() if p.is_symlink()}


def assert_same_training(one: Path, two: Path) -> None:
    """Equal weights, kept layers, optimizer, statistics, best epochs and averages."""
    assert links(one) == links(two)
    files = [{p.name for p in exp.glob("*.pth*")} for exp in (one, two)]
    files[1].discard("checkpoint.damaged.pth")  # what was put aside
    assert files[0] == files[1]
    for name in sorted(files[0]):
        if name == "checkpoint.previous.pth":
            continue  # of a run that was killed it may be the same epoch's
        assert plain(load(one / name)) == plain(load(two / name)), name


def plain(value):
    """Without tensors, so that == compares values; times are left out."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if "time" not in str(k)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return "nan" if value != value else value
