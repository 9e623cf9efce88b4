"""A first order of a trained model's layers, by what it does with some audio.

No training is needed for it; ``method: fixed`` can use it as it is, and the scores of the other
methods can start from it.

Source: ``angle`` is the block influence of Men et al., "ShortGPT: Layers in Large Language
Models are More Redundant Than You Expect", arXiv 2403.03853, of single layers.
"""

from collections.abc import Iterable, Mapping

import torch

from espnet_des.method.selection import best_first
from espnet_des.nn.model import DESModel
from espnet_des.utils.progress import progress

# In so many rounds, about, units are left out greedily.
ROUNDS = 12
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
        by: ``angle``, how far a unit turns what it is added to; ``loss``, the loss without
            it, where all others are there; or ``greedy``: those without which the loss is
            lowest are left out, again and again, until one is left.
    """
    was_training = model.training
    model.eval()
    ways = {"angle": _by_angle, "loss": _by_loss, "greedy": _greedily}
    found = ways[by](model, list(batches))
    model.train(was_training)
    return found


def _by_loss(model: DESModel, batches: list[Mapping[str, torch.Tensor]]) -> list[int]:
    everything = list(range(model.encoder.num_units))
    shown = progress(batches, desc="ranking by loss", unit="batch")
    losses = sum(_losses_without_each(model, everything, batch) for batch in shown)
    return best_first(torch.as_tensor(losses)).tolist()


def _greedily(model: DESModel, batches: list[Mapping[str, torch.Tensor]]) -> list[int]:
    left, gone = list(range(model.encoder.num_units)), []
    step = max(1, len(left) // ROUNDS)
    with progress(total=len(left) - 1, desc="ranking greedily", unit="unit") as bar:
        while len(left) > 1:
            losses = sum(_losses_without_each(model, left, batch) for batch in batches)
            order = best_first(-torch.as_tensor(losses)).tolist()
            leave = [left[i] for i in order[: min(step, len(left) - 1)]]
            gone += leave
            left = [unit for unit in left if unit not in leave]
            bar.update(len(leave))
    return left + gone[::-1]


def _losses_without_each(
    model: DESModel, left: list[int], batch: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Of these units only, less one of them, summed over utterances, ``(len(left),)``."""
    sets = ([other for other in left if other != unit] for unit in left)
    return model.losses_with(sets, **batch).cpu() * len(batch["speech"])


def _by_angle(model: DESModel, batches: list[Mapping[str, torch.Tensor]]) -> list[int]:
    total = torch.zeros(model.encoder.num_units)
    for batch in progress(batches, desc="ranking by angle", unit="batch"):
        total += _angles(model, batch)
    return best_first(total).tolist()


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
