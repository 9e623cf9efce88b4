"""Run a command with its output in a log file and its progress on screen."""

import contextlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from espnet_des.utils.processes import lifeline
from espnet_des.utils.progress import least_seconds


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
    """Shows ESPnet's training log as a bar over epochs, which moves within them, too.

    Args:
        config: the ``config.yaml`` that the training writes before it begins.
    """

    BATCHES = re.compile(r"\[train\] mini-batch sizes summary: N-batch=(\d+)")
    OTHER_BATCHES = re.compile(r"^num_iters_per_epoch: (\d+)$", re.MULTILINE)
    STARTED = re.compile(r"(\d+)/(\d+)epoch started")
    # Every log_interval batches; validation tells nothing before its end.
    TRAINED = re.compile(r"(\d+)epoch:train:\d+-(\d+)batch:")
    RESULTS = re.compile(r"(\d+)epoch results: .*?\[valid\] (.*?)(?:, \[|$)")
    CER = re.compile(r"\b(cer_ctc(?:_size\d+)?)=([\d.e+-]+)")
    STAGE = re.compile(r"\bstage=([\d.e+-]+)")

    def __init__(self, config: Path):
        self._config = config
        self._bar: tqdm | None = None
        self._batches: int | None = None  # of an epoch, where that is known
        self._values: dict[str, object] = {}
        self._shown = 0.0

    def __call__(self, line: str) -> None:
        if found := self.BATCHES.search(line):
            self._batches = int(found[1])
        elif found := self.STARTED.search(line):
            self._start(int(found[1]), int(found[2]))
        elif self._bar is None:
            return
        elif found := self.TRAINED.search(line):
            self._move_within(self._bar, int(found[1]), int(found[2]))
        elif found := self.RESULTS.search(line):
            self._move_to_end(self._bar, int(found[1]), found[2])

    def _start(self, epoch: int, epochs: int) -> None:
        if self._bar is None:
            # The log does not tell whether an epoch is one pass over the data.
            with contextlib.suppress(OSError):
                if found := self.OTHER_BATCHES.search(self._config.read_text("utf-8")):
                    self._batches = int(found[1])
            # What it forecasts is made of the mean speed: validation comes in lumps.
            self._bar = tqdm(
                total=epochs, initial=epoch - 1, desc="training", unit="epoch",
                file=sys.stdout, mininterval=0, miniters=0, smoothing=0,
            )  # fmt: skip

    def _move_within(self, bar: tqdm, epoch: int, batch: int) -> None:
        of = "" if self._batches is None else f"/{self._batches}"
        bar.set_postfix({"batch": f"{batch}{of}"} | self._values, refresh=False)
        if self._batches is not None:
            bar.n = round(epoch - 1 + min(1.0, batch / self._batches), 2)
        if time.monotonic() - self._shown >= least_seconds(sys.stdout):
            self._show(bar)

    def _move_to_end(self, bar: tqdm, epoch: int, results: str) -> None:
        stage = self.STAGE.search(results)
        self._values = {} if stage is None else {"stage": int(float(stage[1]))}
        self._values |= {n.replace("cer_ctc", "cer"): f"{100 * float(v):.1f}%"
                         for n, v in self.CER.findall(results)}  # fmt: skip
        bar.set_postfix(self._values, refresh=False)
        bar.n = epoch
        self._show(bar)

    def _show(self, bar: tqdm) -> None:
        self._shown = time.monotonic()
        bar.update(0)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def say(message: str) -> None:
    """Tell where the run is, with the time, as asr.sh does."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {message}", flush=True)
