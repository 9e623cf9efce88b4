"""What one model costs: parameters, MACs, memory and time, in a process of its own.

A process that has held another model, or a supernet, would show that one's
memory; so each model is loaded by a fresh one, which keeps it for the timing.
"""

import contextlib
import importlib
import io
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import torch

from espnet_des.utils.machine import memory, reset_peak_memory
from espnet_des.utils.processes import spawned
from espnet_des.utils.threads import as_applications_wait

Clock = Callable[[], float]


class Worker:
    """A fresh process with one model, which measures when it is asked to.

    >>> with Worker(exp / "config.yaml", exp / "valid.cer_ctc.ave.pth", 10.0) as worker:
    ...     facts = worker.facts()
    ...     worker.recognise(threads=1)
    0.31

    Args:
        config: ``config.yaml`` of an ESPnet model.
        model_file: its parameters.
        seconds: length of the audio that it recognises.
    """

    def __init__(self, config: Path, model_file: Path, seconds: float):
        self.start(model_file, load_and_measure, config, model_file, seconds)

    def start(self, what: Path, load: Callable[..., dict], *arguments) -> None:
        """Let a fresh process load what it measures."""
        self._pool = spawned(1)
        self._what = f"{what}"
        with as_applications_wait():
            #: What ``load`` returns, in the future.
            self.loaded: Future = self._pool.submit(load, *arguments)

    def facts(self) -> dict:
        """Wait for the model; returns what :func:`load_and_measure` does."""
        return self._result(self.loaded)

    def recognise(self, threads: int, clock: Clock = time.perf_counter) -> float:
        """Seconds that one recognition takes with so many threads.

        Args:
            threads: of torch.
            clock: what tells seconds; ``time.process_time`` is disturbed least by other
                programs, and tells the same with one thread.
        """
        return self._result(self._pool.submit(timed_recognition, threads, clock))

    def _result(self, future: Future):
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"the process that measured {self._what} was killed; all models are held "
                "at once, one process each: with too little memory report fewer of them"
            ) from error

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception) -> None:
        self._pool.shutdown(cancel_futures=True)


class _Loaded(NamedTuple):
    decoder: Callable[[list[torch.Tensor]], object]
    wave: torch.Tensor  # (samples,)


_loaded: _Loaded | None = None  # what this worker process holds


def load_and_measure(config: Path, model_file: Path, seconds: float) -> dict:
    """Load a model, recognise once, and tell what it costs (runs in a worker).

    Returns:
        ``num_layers``, ``encoder_params``, ``model_params``, ``macs_per_second``,
        ``front_end_macs_per_second`` (of audio) and ``peak_memory_bytes``: what
        the process grew by at most, from after its imports until it had the
        text. None where the system does not tell (it must have /proc).

    Raises:
        ConfigError: where the files do not load, or do not take waveforms.
    """
    logging.disable(logging.WARNING)  # every worker would repeat ESPnet's remarks
    with contextlib.redirect_stderr(io.StringIO()):
        importlib.import_module("espnet2.tasks.asr")
        from espnet_des.inference.best_path import BestPathDecoder
        from espnet_des.inference.loading import load_model
        from espnet_des.nn.layered import num_parameters
        from espnet_des.nn.macs import count_macs
        from espnet_des.nn.sizes import layers_of

    torch.set_num_threads(1)
    reset_peak_memory()
    before = memory("VmRSS")
    model, train_args = load_model(config, model_file)
    decoder = BestPathDecoder(model, train_args)
    wave = hold(decoder, int(seconds * decoder.rate))
    most = memory("VmHWM")
    macs = count_macs(model, wave[None])
    return {
        "num_layers": len(layers_of(model.encoder)),
        "encoder_params": num_parameters(model.encoder),
        "model_params": num_parameters(model),
        "macs_per_second": round(macs.total / seconds),
        "front_end_macs_per_second": round(macs.front_end / seconds),
        "peak_memory_bytes": None if before is None or most is None else most - before,
    }


def hold(decoder: Callable[[list[torch.Tensor]], object], samples: int) -> torch.Tensor:
    """Keep for the timing what recognises, after it has done so once (runs in a worker).

    Returns:
        The waveform that it recognises, ``(samples,)``.
    """
    global _loaded
    # Noise: no layer is faster or slower for what is said.
    wave = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    decoder([wave])
    _loaded = _Loaded(decoder, wave)
    return wave


def timed_recognition(threads: int, clock: Clock = time.perf_counter) -> float:
    """Seconds from waveform to text with the loaded model (runs in a worker).

    After a warm-up, of as many recognitions as fit in 0.2 s, at least one.
    """
    from torch.utils.benchmark import Timer  # here, where its remarks are silenced

    assert _loaded is not None, "load_and_measure comes first"
    timer = Timer(
        "decoder([wave])", timer=clock, globals=_loaded._asdict(), num_threads=threads
    )
    return timer.blocked_autorange().median
