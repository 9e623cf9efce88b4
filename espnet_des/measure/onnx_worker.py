"""A process with one exported model, timed as those of PyTorch are."""

import importlib
import logging
from pathlib import Path

import torch

from espnet_des.measure.worker import Worker, hold


class OnnxWorker(Worker):
    """A fresh process with one ONNX file, with one thread.

    Args:
        path: of the file, which takes waveforms.
        samples: length of the audio that it recognises.
    """

    def __init__(self, path: Path, samples: int):
        self.start(path, load_onnx, path, samples)


def load_onnx(path: Path, samples: int) -> dict:
    """Load a file, recognise once, and keep it for the timing (runs in a worker)."""
    logging.disable(logging.WARNING)  # every worker would repeat ESPnet's remarks
    graph = importlib.import_module("espnet_des.deploy.onnx.graph")
    torch.set_num_threads(1)
    session = graph.session(path, threads=1)

    def best_path(waves: list[torch.Tensor]) -> torch.Tensor:
        """Tokens ``(time,)`` of the only wave, repetitions merged."""
        lengths = torch.tensor([len(waves[0])])
        log_probs, _ = graph.run(session, waves[0][None], lengths)
        return torch.from_numpy(log_probs[0].argmax(-1)).unique_consecutive()

    hold(best_path, samples)
    return {}
