"""The multi-blank transducer loss in torch's own operations.

Source: Xu et al., "Multi-blank transducers for speech recognition", ICASSP 2023
(arXiv:2211.03541). ESPnet has it for numba's CUDA alone.
"""

from collections.abc import Sequence

import torch

# The logarithm of 0. Infinite, its gradients would be NaN.
IMPOSSIBLE = -1.0e30


def multi_blank_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    frames: torch.Tensor,
    label_lengths: torch.Tensor,
    blank: int,
    durations: Sequence[int],
    sigma: float = 0.0,
) -> torch.Tensor:
    """Negative log-likelihoods of the labels, each in nats.

    A blank goes on by one frame, the big blank ``blank - 1 - i`` by ``durations[i]`` frames.
    Every symbol costs ``sigma`` besides, which favours the big ones.

    Args:
        logits: of the joint network, ``(batch, time, labels + 1, vocab)``.
        labels: token ids ``(batch, labels)``; any id of the vocabulary on padding.
        frames: lengths in time ``(batch,)``, each at least 1.
        label_lengths: ``(batch,)``.
        blank: id of the standard blank.
        durations: of the big blanks, in frames.
        sigma: of the under-normalisation of the logits.

    Returns:
        ``(batch,)``, float32 (float64 of such logits).
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    rows, time, places, _ = logits.shape
    device = logits.device
    frames, label_lengths = frames.to(device).long(), label_lengths.to(device).long()
    steps = [1, *durations]
    # Only these of the vocabulary are on a path: the blanks, and the label that is next.
    blanks = torch.arange(blank, blank - len(steps), -1, device=device)
    ids = blanks.expand(rows, places, -1)
    following = torch.nn.functional.pad(labels.to(device).long(), [0, 1])
    ids = torch.cat([ids, following[..., None]], dim=2)
    ids = ids[:, None].expand(-1, time, -1, -1)
    log_probs = logits.gather(3, ids) - logits.logsumexp(3, keepdim=True) - sigma
    # Step n of the search stands at the frames t and labels u with t + u == n.
    shifted = _shift_by_label(log_probs, IMPOSSIBLE)
    place = torch.arange(places, device=device)
    # Beyond its labels a text has none to come.
    shifted[..., -1] = shifted[..., -1].masked_fill(
        (place >= label_lengths[:, None])[:, None], IMPOSSIBLE
    )
    start = torch.full((rows, places), IMPOSSIBLE, device=device, dtype=logits.dtype)
    start[:, 0] = 0.0
    reached = [start]
    for n in range(1, time + places - 1):
        by_label = reached[n - 1] + shifted[:, n - 1, :, -1]
        by_label = torch.nn.functional.pad(by_label[:, :-1], [1, 0], value=IMPOSSIBLE)
        by_blank = [
            reached[n - step] + shifted[:, n - step, :, i]
            for i, step in enumerate(steps) if step <= n
        ]  # fmt: skip
        reached.append(torch.stack([by_label, *by_blank]).logsumexp(0).clamp(min=IMPOSSIBLE))
    alphas = torch.stack(reached, dim=1)
    row = torch.arange(rows, device=device)
    ends = []
    # The last symbol is a blank that ends with the last frame.
    for i, step in enumerate(steps):
        known = (frames - step + label_lengths).clamp(min=0)
        end = alphas[row, known, label_lengths] + shifted[row, known, label_lengths, i]
        ends.append(end.masked_fill(frames < step, IMPOSSIBLE))
    return -torch.stack(ends).logsumexp(0)


def _shift_by_label(x: torch.Tensor, fill: float) -> torch.Tensor:
    """Let column ``t`` of label ``u`` be in column ``t + u``.

    Args:
        x: ``(batch, time, labels, values)``.
        fill: what stands where nothing comes to.

    Returns:
        ``(batch, time + labels - 1, labels, values)``.
    """
    rows, time, places, values = x.shape
    x = torch.nn.functional.pad(x.transpose(1, 2), [0, 0, 0, places], value=fill)
    # One place further in each row: as if the rows were cut one column too short.
    x = x.reshape(rows, places * (time + places), values)[:, : places * (time + places - 1)]
    return x.reshape(rows, places, time + places - 1, values).transpose(1, 2)
