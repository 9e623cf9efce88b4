"""BatchNorm whose statistics are kept from what is no number."""

import torch

# Of what a Conformer's convolution may have. (The base that they share is private.)
BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.SyncBatchNorm)


class FiniteBatchNorm1d(torch.nn.BatchNorm1d):
    """BatchNorm that a batch with NaN or infinite values leaves as it was.

    The Trainer skips the step of such a batch, but in torch its statistics stay:
    one damaged recording, and every later validation is NaN.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, dim, time)`` to the same."""
        if not self.training:
            return super().forward(x)
        if x.size(0) * x.size(2) == 1:
            # One frame in all has no variance, and torch would end the training.
            return torch.nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        statistics = [v for v in (self.running_mean, self.running_var) if v is not None]
        before = [value.clone() for value in statistics]
        y = super().forward(x)
        for now, old in zip(statistics, before):
            # Chosen on the device, which Python would have to wait for. By way of ``data``:
            # as torch's own update, this one is not autograd's business.
            now.data.copy_(torch.where(now.isfinite(), now, old))
        return y
