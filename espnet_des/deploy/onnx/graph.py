"""One size of a model as one ONNX file: features or waveform to CTC log-probabilities.

The file names its inputs ``speech`` and ``speech_lengths``, its outputs
``log_probs`` ``(batch, time, vocab)`` and ``lengths`` ``(batch,)``; batch and time
are dynamic. Its metadata hold all that decoding needs: tokens, sampling rate,
shortest input.
"""

import contextlib
import json
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy
import torch

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.deploy.onnx import modules
from espnet_des.deploy.onnx.front_ends import front_end
from espnet_des.errors import ConfigError
from espnet_des.nn.front_end import Subsampled
from espnet_des.nn.layered import LayeredEncoder
from espnet_des.utils.files import write_atomically

INPUTS, OUTPUTS = ("speech", "speech_lengths"), ("log_probs", "lengths")
SOURCES = ("waveform", "features")
OPSET = 18
OF_FRONTEND = "frontend."  # what the names of its nodes begin with


class CTCGraph(torch.nn.Module):
    """What is exported. Takes the model over: load another one for other uses.

    Args:
        model: an ESPnet ASR model of one size, in eval mode.
        source: ``waveform``, or ``features`` as the frontend gives them, before
            normalisation.
        int8: whether it will be quantised, see ``front_ends.py``.
    """

    def __init__(self, model: ESPnetASRModel, source: str = "waveform", int8: bool = False):
        super().__init__()
        encoder = model.encoder
        if not isinstance(encoder, LayeredEncoder):
            raise ConfigError(
                f"encoder: {type(encoder).__name__}: only supernets and the sizes extracted "
                "from them can be exported"
            )
        if model.ctc is None:
            raise ConfigError(
                "model_conf: ctc_weight: 0.0 leaves the model without the CTC output layer "
                "that is exported; train with a weight above 0"
            )
        for name in ("preencoder", "postencoder"):
            if getattr(model, name) is not None:
                raise ConfigError(f"{name}: a model with one cannot be exported; leave it out")
        if source not in SOURCES:
            raise ConfigError(f"source: {source!r} must be one of {list(SOURCES)}")
        self.frontend = modules.LogMel(model.frontend) if source == "waveform" else None
        self.normalize = model.normalize
        self.front = front_end(encoder.embed, int8)
        del encoder.embed
        for block in encoder.encoders:
            modules.exportable(block)
        self.encoder, self.ctc_lo = encoder, model.ctc.ctc_lo
        # What blocks with exits ask where they feed them back; ESPnet's keeps each answer.
        self.ctc = SimpleNamespace(softmax=lambda hidden: self.ctc_lo(hidden).softmax(-1))
        self.eval()

    def forward(self, speech: torch.Tensor, speech_lengths: torch.Tensor):
        """Recognise.

        Args:
            speech: ``(batch, samples)``, or features ``(batch, frames, dim)``.
            speech_lengths: ``(batch,)``.

        Returns:
            Log-probabilities ``(batch, time, vocab)`` and lengths ``(batch,)``.
        """
        x, lengths = speech, speech_lengths
        if self.frontend is not None:
            x, lengths = self.frontend(x, lengths)
        if self.normalize is not None:
            x, _ = self.normalize(x.clone(), lengths)  # ESPnet's works in place
        x, lengths = self.front(x, lengths)
        x, pos_emb = x if isinstance(x, tuple) else (x, None)
        mask = modules.mask_of(lengths, x)[:, None]
        x = self.encoder.run_layers(Subsampled(x, pos_emb, mask), ctc=self.ctc)
        return self.ctc_lo(x).log_softmax(-1), self.encoder.output_lengths(lengths)


def export(graph: CTCGraph, path: Path, metadata: dict[str, object]) -> None:
    """Write the graph in float32.

    Args:
        graph: what to export.
        path: of the file.
        metadata: kept in the file, each value as JSON.
    """
    batch, frames = 2, 200
    if graph.frontend is not None:
        speech = torch.randn(batch, frames * graph.frontend.hop)
    else:
        speech = torch.randn(batch, frames, graph.encoder.input_size)
    lengths = torch.tensor([speech.size(1), speech.size(1) * 3 // 4])
    with quiet():
        program = torch.onnx.export(
            graph, (speech, lengths), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=INPUTS, output_names=OUTPUTS,
            dynamic_shapes=({0: "batch", 1: "time"}, {0: "batch"}),
        )  # fmt: skip
    assert program is not None  # it is with dynamo
    strip(program.model)
    for key, value in metadata.items():
        program.model.metadata_props[key] = json.dumps(value)
    write_atomically(path, lambda partial: program.save(partial, external_data=False))


def strip(model) -> None:
    """Leave out what the exporter tells of each node, two thirds of a small file.

    Above all its stack traces, which name the folders of this machine. Of the scopes stays
    ``frontend.`` in the names of its nodes, see :func:`is_of_frontend`.

    Args:
        model: an ``onnx_ir.Model``.
    """
    graph = model.graph
    described = [model, graph, *graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        if "'frontend'" in node.metadata_props.get("pkg.torch.onnx.name_scopes", ""):
            node.name = OF_FRONTEND + node.name
        node.doc_string = None
        described += [node, *node.outputs]
    for part in described:
        part.metadata_props.clear()


def is_of_frontend(name: str) -> bool:
    """True for the name of a node between the waveform and the features."""
    return name.startswith(OF_FRONTEND)


@contextlib.contextmanager
def quiet():
    """Without warnings: the exporter's are of operators that this model has not."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def session(path: Path, threads: int = 0):
    """An onnxruntime session on the CPU; 0 threads means all cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(
    session, speech: torch.Tensor, lengths: torch.Tensor
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Outputs of a session: log-probabilities and lengths."""
    return tuple(session.run(None, dict(zip(INPUTS, (speech.numpy(), lengths.numpy())))))
