"""The loss of an update as the published code computes it: all layers, one graph.

What the supernet's own way must equal, in value and gradients, and what its cost is
measured against (docs/method.md, "Cost"): every layer of
the gated pass records a graph, stochastic depth computes all rows and multiplies
them with 0 or 1 / (1 - p), and the losses of all passes are summed before the one
backward. Written from that page, without the code that saves work; shared are the front
end, the single layers, the relaxed top-k and the draw of the middle size.
"""

from collections.abc import Sequence

import torch

from espnet_des.espnet_api import attention_loss
from espnet_des.method.selection import best_first, relaxed_topk
from espnet_des.nn.encoder import SupernetEncoder
from espnet_des.nn.front_end import Subsampled
from espnet_des.nn.model import DESModel
from espnet_des.nn.output_layers import ctc_of_size


def published_loss(
    model: DESModel,
    speech: torch.Tensor,
    speech_lengths: torch.Tensor,
    text: torch.Tensor,
    text_lengths: torch.Tensor,
) -> torch.Tensor:
    """The loss of the update that ``model.state.updates`` stands at.

    Random numbers are drawn in the model's order: with dropout 0 the same seed drops
    the same rows.

    Args:
        model: in training mode, with a schedule, and without what the published code
            does not have: a postencoder, ``stochastic_depth_rate``.
        speech: ``(batch, samples, ...)``.
        speech_lengths: ``(batch,)``.
        text: token ids ``(batch, length)``, -1 on padding.
        text_lengths: ``(batch,)``.

    Returns:
        The loss, a scalar whose graph holds all passes. Parameters that take no
        part get no gradient, where the model's loss gives them zeros.
    """
    encoder, opts = model.encoder, model.options
    text = text[:, : text_lengths.max()].masked_fill(text == -1, model.ignore_id)
    front = model.features(speech, speech_lengths)
    t, smallest, full = int(model.state.updates), encoder.sizes[0], encoder.num_layers

    def loss_of(size: int, **layers) -> torch.Tensor:
        out = all_layers(encoder, front, **layers)
        return _loss(model, size, out, front, text, text_lengths)

    if model.stage == 2:
        ranking = model.state.frozen_ranking()
        loss = opts.loss_weight_full * loss_of(
            full, dropped=sorted(ranking[smallest:]), drop_rate=opts.stochastic_depth_p2
        )
        loss = loss + opts.loss_weight_small * loss_of(smallest, kept=ranking[:smallest])
        middle = model.middle_size(t)
        if middle is not None:
            loss = loss + opts.loss_weight_middle * loss_of(middle, kept=ranking[:middle])
        return loss
    scores, schedule = encoder.scores, model.state.get_schedule()
    removed = full - model.selector.num_kept(schedule, t, full)
    lowest = sorted(best_first(scores.detach())[full - removed :].tolist())
    if opts.method == "simple_top_k":
        gates = relaxed_topk(scores, full - removed, opts.hard_gates)
    else:
        gates = torch.sigmoid(scores)
    loss = opts.loss_weight_full * loss_of(
        full, dropped=lowest, drop_rate=opts.stochastic_depth_p1
    )
    loss = loss + opts.loss_weight_small * loss_of(smallest, gates=gates)
    if opts.method == "iterative_zero_out":
        asked = next(
            (z for z, end in zip(schedule.zeroed, schedule.ends) if t <= end),
            schedule.zeroed[-1],
        )
        gap = ((full - gates.sum()) / full - asked / full).abs()
        loss = loss + opts.sparsity_weight * gap
    return loss


def all_layers(
    encoder: SupernetEncoder,
    front: Subsampled,
    *,
    kept: Sequence[int] | None = None,
    gates: torch.Tensor | None = None,
    dropped: Sequence[int] = (),
    drop_rate: float = 0.0,
) -> torch.Tensor:
    """``x + scale * f(x) * multiplier`` for every layer, all rows, with a graph.

    Args:
        kept: layers that are computed; None for all.
        gates: multiplier of each layer ``(num_layers,)``; None for 1.
        dropped: layers with stochastic depth, per utterance.
        drop_rate: its probability.

    Returns:
        Output ``(batch, time, dim)``.
    """
    x, pos_emb, mask = front
    kind = encoder.block_type
    rows = {}
    if dropped and drop_rate > 0.0:
        keep = torch.rand(len(dropped), x.size(0)) >= drop_rate
        multipliers = (keep / (1.0 - drop_rate)).to(x.device, x.dtype)
        rows = dict(zip(dropped, multipliers[:, :, None, None]))
    for number, block in enumerate(encoder.encoders):
        for group in encoder.groups[number]:
            source = x
            for q in [q for q in group if kept is None or q in kept]:
                layer = encoder.layers[q].kind
                out = kind.branch(block, layer, source, pos_emb, mask, q == group[0])
                out = kind.scale(block, layer) * out
                if gates is not None:
                    out = out * gates[q]
                if q in rows:
                    out = out * rows[q]
                x = x + out
        x = kind.after_block(block, x)
    return encoder.after_norm(x)


def _loss(
    model: DESModel, size: int, out, front: Subsampled, text, text_lengths
) -> torch.Tensor:
    """CTC, and attention in a hybrid model, of one pass at the output layer of ``size``."""
    lengths = front.lengths
    loss = ctc_of_size(model.ctc, size)(out, lengths, text, text_lengths)
    if model.ctc_weight == 1.0:
        return loss
    attention = attention_loss(model, out, lengths, text, text_lengths).loss
    return model.ctc_weight * loss + (1.0 - model.ctc_weight) * attention
