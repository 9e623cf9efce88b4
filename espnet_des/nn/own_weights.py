"""What a smaller size owns of the blocks: low-rank matrices beside those that all share.

With ``encoder_conf: own_rank: r`` a size computes, from stage 2 on, with W + B A in place of each
matrix W of its layers, where A and B have r rows and columns (LoRA, Hu et al. 2021, arXiv
2106.09685). B begins as 0, so that the size goes on from what is shared, and where r would save
nothing the size owns a whole matrix to add. An extracted size has the sums: it is as small and as
fast as without.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch

from espnet_des.errors import ConfigError
from espnet_des.nn.copies import with_values


class OwnWeights(torch.nn.Module):
    """What sizes add to the parameters of the blocks.

    Args:
        blocks: of the encoder.
        sizes: those that own something.
        rank: of what they add to a matrix.
    """

    def __init__(self, blocks: torch.nn.Module, sizes: Sequence[int], rank: int):
        super().__init__()
        self.names = [name for name, _ in blocks.named_parameters()]
        self.of_sizes = torch.nn.ModuleDict(
            {f"size{size}": torch.nn.ParameterDict() for size in sizes}
        )
        for added in self.of_sizes.values():
            for name, shared in blocks.named_parameters():
                key, rows, columns = _key(name), len(shared), shared[0].numel()
                if rank * (rows + columns) < shared.numel():
                    added[f"{key}/down"] = torch.nn.Parameter(torch.empty(rank, columns))
                    added[f"{key}/up"] = torch.nn.Parameter(torch.empty(rows, rank))
                else:
                    added[key] = torch.nn.Parameter(torch.empty_like(shared))
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Add nothing yet. All else in a training is drawn as without these weights."""
        with torch.random.fork_rng(devices=[]):
            for added in self.of_sizes.values():
                for key, value in added.items():
                    if key.endswith("/down"):
                        value.normal_(std=value.size(1) ** -0.5)
                    else:
                        value.zero_()

    def added_to(
        self, blocks: torch.nn.Module, size: int, without: Collection[torch.nn.Parameter] = ()
    ) -> Any:
        """Blocks that compute with the sums, and share all else.

        Args:
            blocks: of the encoder.
            size: whose.
            without: parameters of layers that the size has not: they stay as they are.

        Raises:
            ConfigError: where the parameters of the blocks are hidden.
        """
        shared, added = dict(blocks.named_parameters()), self.of_sizes[f"size{size}"]
        if any(name not in shared for name in self.names):
            raise ConfigError(
                "encoder_conf: own_rank: a size of a quantised supernet cannot be run, because "
                "torch hides its weights; extract the size, and quantise that"
            )
        left = {id(parameter) for parameter in without}
        values = {
            name: value + _sum(added, _key(name), value)
            for name, value in shared.items()
            if id(value) not in left
        }
        return with_values(blocks, values)

    def parameters_of_others(self, sizes: Collection[int]) -> list[torch.nn.Parameter]:
        """Parameters of the sizes that are not listed."""
        used = {f"size{size}" for size in sizes}
        others = (added for name, added in self.of_sizes.items() if name not in used)
        return [p for added in others for p in added.parameters()]


def _key(name: str) -> str:
    """A parameter's name where torch allows no dots."""
    return name.replace(".", "/")


def _sum(added: Any, key: str, shared: torch.Tensor) -> torch.Tensor:
    if key in added:
        return added[key]
    return (added[f"{key}/up"] @ added[f"{key}/down"]).view_as(shared)
