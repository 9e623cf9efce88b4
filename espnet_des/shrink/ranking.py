"""A first order of a trained model's layers, by what it does with some audio.

No training is needed for it; ``method: fixed`` can use it as it is, and the scores of the other
methods can start from it.

Source: ``angle`` is the block influence of Men et al., "ShortGPT: Layers in Large Language
Models are More Redundant Than You Expect", arXiv 2403.03853, of single layers.
"""

from collections.abc import Iterable, Mapping

import torch

from espnet_des.method.selection import rank
from espnet_des.nn.model import DESModel
from espnet_des.utils.progress import progress

BY = ("angle", "loss")
# Of scores that start in this order, from the first to the last.
SPREAD = 1.0


@torch.no_grad()
def rank_units(
    model: DESModel, batches: Iterable[Mapping[str, torch.Tensor]], by: str
) -> list[int]:
    """All units of a supernet, the most important first.

    Args:
        model: with the weights of a trained model.
        batches: what its ``forward`` takes.
        by: ``angle``, how far a unit turns what it is added to; or ``loss``, how much the loss
            of the full size grows where it is left out.
    """
    encoder, was_training = model.encoder, model.training
    model.eval()
    total = torch.zeros(encoder.num_units)
    measure = {"angle": _angles, "loss": _losses}[by]
    for batch in progress(list(batches), desc=f"ranking by {by}", unit="batch"):
        total += measure(model, batch)
    model.train(was_training)
    return rank(total).tolist()


def _losses(model: DESModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Loss of the full size without each unit, summed over utterances, ``(num_units,)``."""
    everything = range(model.encoder.num_units)
    sets = ([other for other in everything if other != unit] for unit in everything)
    return model.losses_with(sets, **batch).cpu() * len(batch["speech"])


def _angles(model: DESModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """1 - cosine of what a layer is added to and the sum, summed over real frames.

    Components have the number of their layer.
    """
    encoder = model.encoder
    front = model.features(batch["speech"], batch["speech_lengths"])
    real = front.mask.squeeze(1)
    found = torch.zeros(encoder.num_units)

    def watch(q: int, before: torch.Tensor, after: torch.Tensor) -> None:
        turned = 1.0 - torch.nn.functional.cosine_similarity(before, after, dim=-1)
        found[encoder.units_of[q]] = turned[real].sum().cpu()

    encoder.run_layers(front, watch=watch)
    return found


def scores_of(order: list[int], model: DESModel) -> torch.Tensor:
    """Scores that start in an order, around what all would start from, ``(num_units,)``."""
    start = model.selector.initial_score + SPREAD / 2
    steps = torch.linspace(start, start - SPREAD, len(order))
    return torch.zeros(len(order)).scatter(0, torch.tensor(order), steps)
