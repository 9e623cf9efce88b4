"""Losses with which transducers train where ESPnet's own cannot run.

ESPnet takes the loss of a transducer from ``warprnnt_pytorch``, which no package registry has,
and the multi-blank loss from kernels for numba's CUDA. With these two, what pip installs is
enough, on the CPU too; values and gradients are the same.
"""

import contextlib
from collections.abc import Iterator

import torch

from espnet2.asr.transducer.rnnt_multi_blank.rnnt_multi_blank import MultiblankRNNTLossNumba
from espnet_des.errors import ConfigError
from espnet_des.espnet_api import own_transducer_losses
from espnet_des.nn.multi_blank import multi_blank_loss


class RNNTLoss(torch.nn.Module):
    """``warprnnt_pytorch.RNNTLoss`` by torchaudio: the mean over the batch, in nats.

    Args:
        blank: id of the blank.
        fastemit_lambda: 0.0, which is what ESPnet's ASR models give.
    """

    def __init__(self, blank: int = 0, fastemit_lambda: float = 0.0):
        super().__init__()
        if fastemit_lambda:
            raise ConfigError(
                f"fastemit_lambda: {fastemit_lambda!r} needs warprnnt_pytorch, which is not "
                "installed; install it, or set it to 0.0"
            )
        self.blank = blank

    def forward(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        frames: torch.Tensor,
        label_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """Loss of a batch, ``()``.

        Args:
            logits: of the joint network, ``(batch, time, labels + 1, vocab)``; as long in
                time as the longest utterance.
            labels: token ids ``(batch, labels)``, int32, the blank on padding.
            frames: lengths in time ``(batch,)``, int32.
            label_lengths: ``(batch,)``, int32.
        """
        # Not at the top: a recogniser of another kind does without.
        from torchaudio.functional import rnnt_loss

        return rnnt_loss(logits.float(), labels, frames, label_lengths, blank=self.blank)


class MultiBlankLoss(torch.nn.Module):
    """ESPnet's multi-blank loss where numba finds a GPU; else the same in torch's operations.

    Args:
        **settings: of ESPnet's MultiblankRNNTLossNumba.
    """

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def forward(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        frames: torch.Tensor,
        label_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """Loss of a batch, one number; arguments as of :class:`RNNTLoss`."""
        if logits.is_cuda and finds_gpu():
            espnets = MultiblankRNNTLossNumba(**self.settings)
            return espnets(logits.float(), labels, frames, label_lengths)
        conf = (self.settings[key] for key in ("blank", "big_blank_durations", "sigma"))
        return multi_blank_loss(logits, labels, frames, label_lengths, *conf).mean()


def finds_gpu() -> bool:
    """True where numba can run kernels on a GPU."""
    from numba import cuda

    return cuda.is_available()


@contextlib.contextmanager
def trainable_transducers() -> Iterator[None]:
    """While it lasts, ESPnet builds transducers that can be trained on this machine."""
    with own_transducer_losses(RNNTLoss, MultiBlankLoss):
        yield
