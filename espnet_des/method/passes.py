"""Which runs of the encoder an update consists of.

Source: Xu et al., Interspeech 2024, sections 3 and 4. Stage 1 runs the full size
and all layers with gates; stage 2 the full, the smallest and one middle size
(sandwich rule).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy
import torch

from espnet_des.method.options import SelectionOptions
from espnet_des.method.selection import Schedule, Selector

# A smaller gate leaves too little of the branch in the sum to have it back, in float32.
FAINT = 0.005


class Pass(NamedTuple):
    """One run of the encoder within an update.

    Its layers are given by units: layers, or components of layers.

    Attributes:
        size: which output layer it trains and under which name it is reported.
        weight: of its loss in the sum.
        kept: units that are computed; None for all.
        gates: multiplier of each unit ``(num_units,)``; None for 1.
        closed: units whose gate is exactly 0.
        faint: units whose gate is below ``FAINT``, and not 0.
        dropped: units with stochastic depth.
        drop_rate: its probability.
        share: of the batch's utterances on which it runs.
        rows: their numbers in the batch, ascending; None for all.
    """

    size: int
    weight: float
    kept: list[int] | None = None
    gates: torch.Tensor | None = None
    closed: Sequence[int] = ()
    faint: Sequence[int] = ()
    dropped: Sequence[int] = ()
    drop_rate: float = 0.0
    share: float = 1.0
    rows: torch.Tensor | None = None


def passes_of_stage_1(
    options: SelectionOptions,
    selector: Selector,
    schedule: Schedule,
    t: int,
    sizes: Sequence[int],
    scores: torch.Tensor,
    scores_cpu: torch.Tensor,
    small_size: int,
) -> list[Pass]:
    """The full size, and the small pass that teaches the scores, of update t.

    Args:
        selector: of the method.
        sizes: of the supernet, ascending.
        scores: the supernet's, ``(num_layers,)``, which the gates are made of.
        scores_cpu: the same on the CPU: what is decided by them must not wait for
            the device once more.
        small_size: of the small pass, of which methods that draw it want to know.
    """
    outside, p1 = [], options.stochastic_depth_p1
    if p1 > 0.0:
        outside = selector.outside(scores_cpu, schedule, t)
    full = Pass(sizes[-1], options.loss_weight_full, dropped=outside, drop_rate=p1)
    small = Pass(sizes[0], options.loss_weight_small, share=options.rows_stage_1)
    fixed = selector.fixed_units(schedule, t)
    if fixed is not None:
        return [full, small._replace(kept=fixed)]
    gates = selector.gates(scores, schedule, t, now=scores_cpu, size=small_size)
    closed = selector.closed(scores_cpu, schedule, t)
    if closed:  # the others are open
        return [full, small._replace(gates=gates, closed=closed)]
    # The same gates once more, on the CPU: which are nearly 0 must be known here.
    known = selector.gates(scores_cpu, schedule, t, size=small_size)
    faint = (known < FAINT).nonzero().flatten().tolist()
    return [full, small._replace(gates=gates, faint=faint)]


def passes_of_stage_2(
    options: SelectionOptions,
    sizes: Sequence[int],
    kept_units: Callable[[int], list[int]],
    middle: int | None,
) -> list[Pass]:
    """The full size, the smallest, and the middle size of this update, if any.

    Args:
        sizes: of the supernet, ascending.
        kept_units: of a size, ascending.
        middle: one of the sizes.
    """
    small = kept_units(sizes[0])
    lacking = sorted(set(kept_units(sizes[-1])) - set(small))
    p2 = options.stochastic_depth_p2
    passes = [
        Pass(sizes[-1], options.loss_weight_full, dropped=lacking, drop_rate=p2),
        Pass(sizes[0], options.loss_weight_small, kept=small, share=options.rows_small),
    ]
    if middle is not None:
        weight, share = options.loss_weight_middle, options.rows_middle
        passes.append(Pass(middle, weight, kept=kept_units(middle), share=share))
    return passes


def on_part_of_batch(
    passes: Sequence[Pass], batch: int, generator: numpy.random.Generator
) -> list[Pass]:
    """Let passes with a share run on some of the batch's utterances, drawn anew in each update.

    Their loss is a mean over utterances: its expectation, and that of its gradients, is that
    of the whole batch. Two such passes have different utterances where there are enough of
    them.

    Args:
        passes: of an update, two with a share at most.
        batch: number of utterances.
        generator: what they are drawn with.
    """
    order = torch.from_numpy(generator.permutation(batch))
    found = []
    for p in passes:
        count = max(1, round(p.share * batch))
        if count < batch:
            p = p._replace(rows=order[:count].sort().values)
            order = order.flip(0)
        found.append(p)
    return found
