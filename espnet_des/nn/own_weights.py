"""What a smaller size owns of the blocks: something to add to each parameter that all share.

From stage 2 on (``encoder_conf: own_weights``) a size computes with w + d in place of each
parameter w of its layers. d begins as 0, so that the size goes on from what is shared, and is
trained by this size alone. With ``sizes: any`` a size between two of these has a mean of what
they add; to a layer that the smaller one has not got that adds nothing.
An extracted size has the sums: it is as small and as fast as without.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from espnet_des.errors import ConfigError, OtherTrainingError
from espnet_des.nn.batch_norm import BATCH_NORMS
from espnet_des.nn.copies import with_values


class OwnWeights(torch.nn.Module):
    """What sizes add to the parameters of the blocks.

    Args:
        blocks: of the encoder.
        sizes: those that own something.
    """

    def __init__(self, blocks: torch.nn.Module, sizes: Sequence[int]):
        super().__init__()
        self.of_sizes = torch.nn.ModuleDict(
            {
                f"size{size}": torch.nn.ParameterDict(
                    {_key(name): torch.zeros_like(p) for name, p in blocks.named_parameters()}
                )
                for size in sizes
            }
        )
        for added in self._added(_of_norms(blocks)):
            added._no_weight_decay = True  # read by exclude_weight_decay

    @torch.no_grad()
    def start(self) -> None:
        """Add nothing yet."""
        for added in self.parameters():
            added.zero_()

    def freeze_with(self, blocks: torch.nn.Module) -> None:
        """Let no size add to parameters that ``freeze_param`` keeps as they are."""
        frozen = [n for n, p in blocks.named_parameters() if not p.requires_grad]
        for added in self._added(frozen):
            added.requires_grad_(False)

    def _added(self, names: Sequence[str]) -> Iterator[Any]:
        """What every size adds to these parameters of the blocks."""
        of_size: Any
        for of_size in self.of_sizes.values():
            yield from (of_size[_key(name)] for name in names)

    def check_visible(self, blocks: torch.nn.Module) -> None:
        """Refuse blocks without some of the parameters that sizes add to.

        Raises:
            ConfigError: where they are hidden.
        """
        needed: Any = next(iter(self.of_sizes.values()))  # the same ones of each size
        if len(dict(blocks.named_parameters())) < len(needed):
            raise ConfigError(
                "encoder_conf: own_weights: a size of a quantised supernet cannot be run, because "
                "torch hides its weights; extract the size, and quantise that"
            )

    def added_to(
        self,
        blocks: torch.nn.Module,
        shares: Mapping[int, float],
        without: Collection[torch.nn.Parameter] = (),
    ) -> Any:
        """Blocks that compute with the sums, and share all else.

        Args:
            blocks: of the encoder.
            shares: how much of what each size adds, by size.
            without: parameters of layers that the size has not: they stay as they are.

        Raises:
            ConfigError: where the parameters of the blocks are hidden.
        """
        self.check_visible(blocks)
        shared: dict[str, torch.Tensor] = dict(blocks.named_parameters())
        left = {id(parameter) for parameter in without}
        values = {name: value for name, value in shared.items() if id(value) not in left}
        for size, share in shares.items():
            added: Any = self.of_sizes[f"size{size}"]
            values = {
                name: value.add(added[_key(name)], alpha=share)
                for name, value in values.items()
            }
        return with_values(blocks, values)

    def added_by(
        self, size: int, blocks: torch.nn.Module, to: Collection[torch.nn.Parameter]
    ) -> list[torch.nn.Parameter]:
        """What a size adds to these parameters of the blocks."""
        added: Any = self.of_sizes[f"size{size}"]
        asked = {id(p) for p in to}
        return [added[_key(name)] for name, p in blocks.named_parameters() if id(p) in asked]

    def parameters_of_others(self, sizes: Collection[int]) -> list[torch.nn.Parameter]:
        """Parameters of the sizes that are not listed."""
        used = {f"size{size}" for size in sizes}
        others = (added for name, added in self.of_sizes.items() if name not in used)
        return [p for added in others for p in added.parameters()]


def check_own_weights(found: Collection[str], keys: Collection[str]) -> None:
    """Refuse a supernet's checkpoint in which sizes own something, or nothing, unlike here.

    Args:
        found: names of what is loaded.
        keys: of all that there is in the model.

    Raises:
        OtherTrainingError: saying what its config needs.
    """
    prefix = "encoder.own."
    has, needs = (any(name.startswith(prefix) for name in names) for names in (found, keys))
    if has != needs:
        needed = str(has).lower()
        raise OtherTrainingError(
            f"in the checkpoint smaller sizes have {'' if has else 'no '}weights of their own"
            f"{'' if has else ', the default of older versions'}. Set own_weights: {needed} in "
            "encoder_conf in its config.yaml"
        )


def _of_norms(blocks: torch.nn.Module) -> list[str]:
    """Names of the parameters of LayerNorm and BatchNorm."""
    norms = (torch.nn.LayerNorm, *BATCH_NORMS)
    return [
        f"{name}.{own}" for name, module in blocks.named_modules() if isinstance(module, norms)
        for own, _ in module.named_parameters()
    ]  # fmt: skip


def _key(name: str) -> str:
    """A parameter's name where torch allows no dots."""
    return name.replace(".", "/")
