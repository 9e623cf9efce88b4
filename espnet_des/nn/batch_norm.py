"""BatchNorm whose statistics are kept from what is no number, and apart for each size."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from espnet_des.errors import OtherTrainingError
from espnet_des.nn.components import part_of

# Of what a Conformer's convolution may have. (The base that they share is private.)
BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.SyncBatchNorm)
STATISTICS = {"running_mean": 0.0, "running_var": 1.0}  # and what they begin with


class FiniteBatchNorm1d(torch.nn.BatchNorm1d):
    """BatchNorm that a batch with NaN or infinite values leaves as it was.

    The Trainer skips the step of such a batch, but in torch its statistics stay:
    one damaged recording, and every later validation is NaN.

    In a supernet each size has running statistics of its own, since its layers read something
    else (as in slimmable networks, Yu et al. 2019); scale and bias are shared. Those of the full
    size have torch's names.

    Attributes:
        size: whose statistics are used and updated; None: the full size's.
        between: of a size that has none of its own, the smaller and the larger one whose mean it
            uses, and the larger one's share for each component of the channels; or None.
        part: of how many components of the channels it has which, see
            :func:`espnet_des.nn.components.cut`; None: all of them.
    """

    part: tuple[int, Sequence[int]] | None = None

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.size: int | None = None
        self.between: tuple[int | None, int | None, Sequence[float]] | None = None

    def keep_apart(self, sizes: Iterable[int]) -> None:
        """Give these sizes statistics; those of all others are the full size's."""
        for size in sizes:
            for name, value in STATISTICS.items():
                own = torch.full_like(getattr(self, name), value)
                self.register_buffer(name_of(name, size), own)

    def keep_mean_as(self, size: int) -> None:
        """Give a size between others statistics of its own: the mean that it uses now."""
        for name, mean in zip(STATISTICS, self.statistics()):
            self.register_buffer(name_of(name, size), mean.clone())

    def copy_full_to(self, sizes: Iterable[int]) -> None:
        """Let these sizes, which have statistics, go on from the full size's."""
        for size in sizes:
            for name in STATISTICS:
                getattr(self, name_of(name, size)).copy_(getattr(self, name))

    def use(self, size: int | None) -> None:
        """Use statistics of this size, and update them in training; None: the full size's."""
        self.size, self.between = size, None

    def use_between(
        self, low: int | None, high: int | None, of_high: Sequence[float]
    ) -> None:  # fmt: skip
        """Use a mean of those of two sizes, which stay as they are.

        Args:
            of_high: the larger one's share, for each component of the channels.
        """
        self.between = low, high, of_high

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Running mean and variance ``(dim,)`` of the current size."""
        mean, var = map(self._of_size, STATISTICS)
        return mean, var

    def _of_size(self, name: str) -> torch.Tensor:
        if self.between is None:
            return getattr(self, name_of(name, self.size))
        low, high = (getattr(self, name_of(name, size)) for size in self.between[:2])
        of_high = low.new_tensor(self.between[2])
        return torch.lerp(low, high, of_high.repeat_interleave(len(low) // len(of_high)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, dim, time)`` to the same."""
        assert self.num_batches_tracked is not None and self.momentum is not None
        # One frame in all has no variance, and torch would end the training.
        learns = self.training and x.size(0) * x.size(2) > 1
        whole = self.statistics()
        mean, var = statistics = [self._own(value) for value in whole]
        before = [value.clone() for value in statistics] if learns else []
        if learns:
            self.num_batches_tracked.add_(1)
        y = torch.nn.functional.batch_norm(
            x, mean, var, self.weight, self.bias, learns, self.momentum, self.eps
        )
        for now, old in zip(statistics, before):
            # Chosen on the device, which Python would have to wait for. By way of ``data``:
            # as torch's own update, this one is not autograd's business.
            now.data.copy_(torch.where(now.isfinite(), now, old))
        if learns:
            self._put_back(whole, statistics)
        return y

    def _own(self, statistic: torch.Tensor) -> torch.Tensor:
        """What belongs to its channels, ``(dim,)``: a view, or a copy."""
        return statistic if self.part is None else part_of(statistic, 0, *self.part)

    def _put_back(self, whole: Sequence[torch.Tensor], own: Sequence[torch.Tensor]) -> None:
        """Keep what it learned of its channels, where these were copied."""
        if self.part is None:
            return
        count, components = self.part
        for value, mine in zip(whole, own):
            size = len(value) // count
            for c, learned in zip(components, mine.split(size)):
                value.data.narrow(0, c * size, size).copy_(learned)


def name_of(statistic: str, size: int | None) -> str:
    """What it is called for a size; None: the full one."""
    return statistic if size is None else f"{statistic}_size{size}"


def of_full_size(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict without the statistics that smaller sizes have of their own."""
    return {
        key: value for key, value in state.items()
        if not key.rpartition("_size")[0].endswith(tuple(STATISTICS))
    }  # fmt: skip


def state_of_current(module: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """The state dict of a module, with the statistics of the size that is used alone."""
    state = of_full_size(module.state_dict(prefix=prefix))
    for name, norm in module.named_modules(prefix=prefix.removesuffix(".")):
        if isinstance(norm, FiniteBatchNorm1d):
            state |= {f"{name}.{key}": v for key, v in zip(STATISTICS, norm.statistics())}
    return state


def check_statistics(state: Mapping[str, torch.Tensor], keys: Iterable[str]) -> None:
    """Refuse a checkpoint whose convolutions have layer norms, which have the same weights.

    Args:
        state: what is loaded.
        keys: names of all that there is in the model.

    Raises:
        OtherTrainingError: saying what its config needs.
    """
    for key in keys:
        name = key.removesuffix("running_mean")
        if name != key and key not in state and f"{name}weight" in state:
            raise OtherTrainingError(
                f"the checkpoint has no {key}: its model has layer norms in the convolutions, "
                "the default of older versions. Add conv_norm: layer_norm to encoder_conf in "
                "its config.yaml"
            )


def begin_as_the_full_size(state: dict[str, Any], keys: Iterable[str], is_new: bool) -> None:
    """Let sizes that a checkpoint brings no statistics of begin with the full size's.

    Args:
        state: what is loaded; changed in place.
        keys: names of all that there is in the model.
        is_new: the supernet was not trained before. Then what stands at its start is not of the
            checkpoint: ESPnet adds to ``--init_param`` what the file lacks.
    """
    for key in keys:
        name, _, _ = key.rpartition("_size")
        if not name.endswith(tuple(STATISTICS)) or name not in state:
            continue
        start = STATISTICS[name.rpartition(".")[2]]
        if key not in state or (is_new and bool((state[key] == start).all())):
            state[key] = state[name].clone()
