"""Multiply-accumulates (MACs) of a model, and of each layer of a supernet."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.espnet_api import cpu_flash_attention, extract_features, without_exits
from espnet_des.nn.encoder import SupernetEncoder
from espnet_des.nn.front_end import Subsampled
from espnet_des.nn.model import DESModel


class Macs(NamedTuple):
    """Multiply-accumulates: a multiplication and an addition each, 2 FLOPs.

    Attributes:
        total: encoder and CTC output layer.
        front_end: the encoder's subsampling, part of ``total``.
    """

    total: int
    front_end: int


class LayerMacs(NamedTuple):
    """What a layer adds, by its components.

    Attributes:
        shared: what it takes with any of them.
        each: what each adds to that.
    """

    shared: int
    each: int

    def of(self, count: int) -> int:
        """With so many components."""
        return self.shared + count * self.each


class PartMacs(NamedTuple):
    """What any choice of units is the sum of.

    Attributes:
        rest: without any: front end, what stands between layers, and CTC output layer.
        layers: of each layer.
    """

    rest: int
    layers: list[LayerMacs]

    def of(self, parts: Mapping[int, Sequence[int]]) -> int:
        """MACs of a model with these layers, and of each with these components."""
        return self.rest + sum(self.layers[q].of(len(own)) for q, own in parts.items())


def count_macs(model: ESPnetASRModel, speech: torch.Tensor) -> Macs:
    """Count the MACs of recognising one utterance, from its features on.

    Counted by torch's FlopCounterMode: matrix products, convolutions and
    attention. Norms, activations and additions are not, and neither is what
    makes the features of the waveform.

    Args:
        model: an ESPnet ASR model with a Conformer encoder and a CTC output layer.
        speech: what it takes, ``(1, samples)`` or ``(1, frames, features)``.
    """
    model.eval()
    with torch.no_grad():
        with counter() as everything:
            encoded, _ = model.encode(speech, _lengths(speech))
        with counter() as output_layer:
            model.ctc.ctc_lo(without_exits(encoded))
    flops = everything.get_flop_counts()
    encoder = type(model.encoder).__name__
    total = sum(flops[encoder].values()) + output_layer.get_total_flops()
    return Macs(total // 2, sum(flops.get(f"{encoder}.embed", {}).values()) // 2)


@torch.no_grad()
def count_macs_of_layers(model: DESModel, speech: torch.Tensor) -> PartMacs:
    """The same count of each layer of a supernet, whichever size is set.

    Args:
        model: a supernet with a CTC output layer; it is in eval mode afterwards.
        speech: what it takes, ``(1, samples)`` or ``(1, frames, features)``.
    """
    model.eval()
    encoder: Any = model.encoder
    feats, lengths = extract_features(model, speech, _lengths(speech))
    if model.preencoder is not None:
        feats, lengths = model.preencoder(feats, lengths)
    front, of_front = _counted(lambda: encoder.subsample(feats, lengths))
    encoded, none = _counted(lambda: encoder.run_layers(front, kept=[], ctc=model.ctc))
    if model.postencoder is not None:
        encoded, _ = model.postencoder(encoded, encoder.output_lengths(front.lengths))
    _, output_layer = _counted(lambda: model.ctc.ctc_lo(encoded))
    return PartMacs(of_front + none + output_layer, macs_of_layers(encoder, front, model.ctc))


@torch.no_grad()
def macs_of_layers(
    encoder: SupernetEncoder, front: Subsampled, ctc: Any = None
) -> list[LayerMacs]:
    """What each layer adds to a run of the layers.

    Args:
        encoder: in eval mode.
        front: output of its front end, of one utterance.
        ctc: see :meth:`LayeredEncoder.run_layers`.
    """

    def run(kept: list[int]) -> int:
        return _counted(lambda: encoder.run_layers(front, kept=kept, ctc=ctc))[1]

    none, found = run([]), []
    for units in encoder.units_of:
        whole = run(units) - none
        # Without one component: what is left tells it from what they share.
        each = whole - (run(units[1:]) - none) if len(units) > 1 else whole
        found.append(LayerMacs(whole - len(units) * each, each))
    return found


def counter() -> FlopCounterMode:
    """torch's counter of FLOPs, which knows of all that our encoders run."""

    def attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
        return sdpa_flop_count(query, key, value)

    # torch's table lacks the CPU's fused attention (encoder_conf: use_sdpa).
    mapping = {cpu_flash_attention(): attention}
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _counted(run: Callable[[], Any]) -> tuple[Any, int]:
    """What a function returns, and its MACs."""
    with counter() as flops:
        result = run()
    return result, flops.get_total_flops() // 2


def _lengths(speech: torch.Tensor) -> torch.Tensor:
    return torch.tensor([speech.size(1)], device=speech.device)
