"""Run a command with its output in a log file and its progress on screen."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from espnet_des.utils.processes import lifeline


class StageError(RuntimeError):
    """A stage that cannot go on: says why and what to do next."""


def run_logged(
    command: list[str],
    log: Path,
    on_line: Callable[[str], None] | None = None,
    pass_fds: Sequence[int] = (),
) -> None:
    """Run a command; its output goes to ``log``. It ends with this process.

    Args:
        on_line: called with every line of its output.
        pass_fds: open files that it holds, too.

    Raises:
        StageError: where it fails, with the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    ours = lifeline()
    ours["pass_fds"] += tuple(pass_fds)
    with log.open("w", encoding="utf-8", errors="replace") as out:
        out.write(f"# {shlex.join(command)}\n")
        out.flush()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", **ours,
        )  # fmt: skip
        assert process.stdout is not None  # it is a pipe
        try:
            for line in process.stdout:
                out.write(line)
                out.flush()
                if on_line:
                    on_line(line)
        except BaseException:
            process.terminate()
            raise
        finally:
            process.stdout.close()
            code = process.wait()
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise StageError(
            "\n".join(lines[-15:]) + f"\nThe command above failed (exit {code}). Log: {log}"
        )


class TrainingProgress:
    """Shows ESPnet's training log as a bar over epochs."""

    STARTED = re.compile(r"(\d+)/(\d+)epoch started")
    RESULTS = re.compile(r"(\d+)epoch results: .*?\[valid\] (.*?)(?:, \[|$)")
    CER = re.compile(r"\b(cer_ctc(?:_size\d+)?)=([\d.e+-]+)")
    STAGE = re.compile(r"\bstage=([\d.e+-]+)")

    def __init__(self):
        self._bar = None

    def __call__(self, line: str) -> None:
        started, results = self.STARTED.search(line), self.RESULTS.search(line)
        if started and self._bar is None:
            self._bar = tqdm(
                total=int(started[2]), initial=int(started[1]) - 1,
                desc="training", unit="epoch", file=sys.stdout, mininterval=0,
            )  # fmt: skip
        if results and self._bar is not None:
            stage = self.STAGE.search(results[2])
            values: dict[str, Any]
            values = {n.replace("cer_ctc", "cer"): f"{100 * float(v):.1f}%"
                      for n, v in self.CER.findall(results[2])}  # fmt: skip
            if stage:
                values = {"stage": int(float(stage[1]))} | values
            self._bar.set_postfix(values)
            self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def say(message: str) -> None:
    """Tell where the run is, with the time, as asr.sh does."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {message}", flush=True)
