"""The multi-blank loss against its definition, and against ESPnet's own kernels."""

import os
import subprocess
import sys

import pytest
import torch

from espnet_des.nn.multi_blank import multi_blank_loss

BLANK, SIGMA = 3, 0.05
LABELS, FRAMES, LENGTHS = [[4, 7, 5, 5], [6, 4, 4, 7], [5, 5, 5, 5]], [7, 3, 1], [4, 2, 0]


def recursion(log_probs, labels, durations):
    """Of one utterance ``(time, labels + 1, vocab)``: every cell by those it is reached from."""
    time, places = log_probs.shape[:2]
    steps, alphas = [1, *durations], {}
    for t in range(time):
        for u in range(places):
            ways = [alphas[t - d, u] + log_probs[t - d, u, BLANK - i] - SIGMA
                    for i, d in enumerate(steps) if t >= d]  # fmt: skip
            if u:
                ways.append(alphas[t, u - 1] + log_probs[t, u - 1, labels[u - 1]] - SIGMA)
            alphas[t, u] = torch.stack(ways).logsumexp(0) if ways else log_probs.new_zeros(())
    ends = [alphas[time - d, places - 1] + log_probs[time - d, -1, BLANK - i] - SIGMA
            for i, d in enumerate(steps) if time >= d]  # fmt: skip
    return -torch.stack(ends).logsumexp(0)


@pytest.mark.parametrize("durations", [[], [2], [2, 4], [8, 3]])
def test_it_is_the_recursion_of_the_paper(durations):
    logits = torch.randn(3, 7, 5, 8, dtype=torch.float64, requires_grad=True)
    same = logits.detach().clone().requires_grad_()
    found = multi_blank_loss(
        logits, torch.tensor(LABELS), torch.tensor(FRAMES), torch.tensor(LENGTHS),
        BLANK, durations, SIGMA,
    )  # fmt: skip
    expected = torch.stack([
        recursion(row[:t, : u + 1].log_softmax(-1), labels, durations)
        for row, labels, t, u in zip(same, LABELS, FRAMES, LENGTHS)
    ])  # fmt: skip
    torch.testing.assert_close(found, expected)
    weights = torch.tensor([1.0, 2.0, 3.0])
    (weights * found).sum().backward()
    (weights * expected).sum().backward()
    torch.testing.assert_close(logits.grad, same.grad)


def test_half_precision_is_computed_in_float32():
    logits = torch.randn(3, 7, 5, 8).bfloat16()
    given = torch.tensor(LABELS), torch.tensor(FRAMES), torch.tensor(LENGTHS), BLANK, [2]
    found = multi_blank_loss(logits, *given)
    assert found.dtype == torch.float32
    assert torch.equal(found, multi_blank_loss(logits.float(), *given))


def test_confident_logits_have_finite_gradients():
    """Paths that are as good as impossible, as a trained model makes them."""
    logits = (1000 * torch.randn(3, 7, 5, 8)).requires_grad_()
    found = multi_blank_loss(
        logits, torch.tensor(LABELS), torch.tensor(FRAMES), torch.tensor(LENGTHS), BLANK, [2]
    )
    found.sum().backward()
    assert found.isfinite().all()
    assert logits.grad.isfinite().all()


# numba runs kernels for CUDA as Python where this is set before its import.
KERNELS = f"""
import numpy, torch
from espnet2.asr.transducer.rnnt_multi_blank.utils.cuda_utils import gpu_rnnt_kernel as kernel
from espnet_des.nn.multi_blank import multi_blank_loss

torch.manual_seed(0)
x, durations = torch.randn(3, 7, 5, 8), [2, 4]
labels, frames, lengths = {LABELS}, {FRAMES}, {LENGTHS}
acts, denom = x.numpy().reshape(-1), -x.logsumexp(-1).numpy().reshape(-1)
alphas, betas = numpy.zeros((2, denom.size), numpy.float32)
forward, backward = numpy.zeros((2, 3), numpy.float32)
grads = numpy.zeros_like(acts)
rest = (*(numpy.array(v, numpy.int32) for v in (frames, lengths, labels)),
        3, 7, 5, 8, {BLANK}, numpy.array(durations), 2)
first = (acts, denom, {SIGMA})
kernel.compute_multiblank_alphas_kernel[3, 5](*first, alphas, forward, *rest)
kernel.compute_multiblank_betas_kernel[3, 5](*first, betas, backward, *rest)
size = 3 * 7 * 5, kernel.GPU_RNNT_THREAD_SIZE
kernel.compute_multiblank_grad_kernel[size](grads, *first, alphas, betas, forward, *rest, 0.0, 0.0)
x.requires_grad_()
ours = multi_blank_loss(x, *map(torch.tensor, (labels, frames, lengths)),
                        {BLANK}, durations, {SIGMA})
ours.sum().backward()
torch.testing.assert_close(ours, -torch.from_numpy(forward))
torch.testing.assert_close(x.grad, torch.from_numpy(grads).view_as(x))
"""


def test_espnets_kernels_compute_the_same():
    env = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KERNELS], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
