"""Components of a layer: chunks of a feed-forward's hidden units, heads of a self-attention,
and, where asked for, chunks of a convolution's channels.

A module that adds up what its components give can be run with some of them: its weights
are cut, and the rest is not computed. All other modules are one component.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule
from espnet2.legacy.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import (
    PositionwiseFeedForward,
)
from espnet_des.errors import ConfigError
from espnet_des.nn.copies import with_values

# Of a feed-forward's hidden units, where they can be divided so.
CHUNKS = 4

# Parameters that have a part for each component, and along which dimension.
OF_FEED_FORWARD = {"w_1.weight": 0, "w_1.bias": 0, "w_2.weight": 1}
OF_ATTENTION = {
    "linear_q.weight": 0, "linear_q.bias": 0, "linear_k.weight": 0, "linear_k.bias": 0,
    "linear_v.weight": 0, "linear_v.bias": 0, "linear_pos.weight": 0,
    "pos_bias_u": 0, "pos_bias_v": 0, "linear_out.weight": 1,
}  # fmt: skip
OF_CONVOLUTION = {
    "pointwise_conv1.weight": 0, "pointwise_conv1.bias": 0,
    "depthwise_conv.weight": 0, "depthwise_conv.bias": 0, "norm.weight": 0, "norm.bias": 0,
    "pointwise_conv2.weight": 1,
}  # fmt: skip
# Values and gates of a GLU, one behind the other.
OF_GLU = ("pointwise_conv1.weight", "pointwise_conv1.bias")


class Divided(NamedTuple):
    """How a module is made of components.

    Attributes:
        number: of components.
        dims: of each parameter that is divided, the dimension.
        last: the weight that adds them up, ``(dim, number * size, ...)``.
        counter: what the module calls their number, where it has it.
    """

    number: int
    dims: dict[str, int]
    last: str
    counter: str | None = None


def divided(module: torch.nn.Module) -> Divided | None:
    """How a module is divided; None of one that is whole."""
    if isinstance(module, PositionwiseFeedForward) and not module.w_1.out_features % CHUNKS:
        return Divided(CHUNKS, OF_FEED_FORWARD, "w_2.weight")
    if isinstance(module, MultiHeadedAttention) and module.h > 1:
        return Divided(module.h, OF_ATTENTION, "linear_out.weight", "h")
    if isinstance(module, ConvolutionModule) and getattr(module, "parts", 1) > 1:
        return Divided(int(module.parts), OF_CONVOLUTION, "pointwise_conv2.weight")
    return None


def count_components(module: torch.nn.Module) -> int:
    found = divided(module)
    return 1 if found is None else found.number


def cut(
    module: torch.nn.Module,
    components: Sequence[int],
    gates: torch.Tensor | None = None,
    with_bias: bool = True,
) -> torch.nn.Module:
    """A module with some of its components, which shares what is not cut.

    Args:
        module: one that is :func:`divided`.
        components: their numbers, ascending.
        gates: multipliers of these, ``(len(components),)``, with a graph.
        with_bias: add the bias of what adds them up.
    """
    of, found = _parts(module, components)
    if gates is not None:
        last = found[of.last]
        of_each = gates.repeat_interleave(last.size(1) // len(components))
        of_each = of_each.view(-1, *[1] * (last.dim() - 2))
        found[of.last] = last * of_each.to(last.dtype)
    values: dict[str, torch.Tensor | None] = {**found}
    if not with_bias:
        values[of.last.replace("weight", "bias")] = None
    new: Any = with_values(module, values)
    if of.counter:
        setattr(new, of.counter, len(components))
    if isinstance(module, ConvolutionModule):
        new.depthwise_conv.groups = len(found["depthwise_conv.weight"])
        new.norm.part = (of.number, components)
    return new


def _parts(
    module: torch.nn.Module, components: Sequence[int]
) -> tuple[Divided, dict[str, torch.Tensor]]:
    """How a module is divided, and of each parameter what belongs to some components."""
    of = divided(module)
    assert of is not None, "only a divided module is cut"
    own = dict(module.named_parameters())
    if of.last not in own:
        raise ConfigError(
            "encoder_conf: granularity: component: a size of a quantised supernet cannot be "
            "run, because torch hides its weights; extract the size, and quantise that"
        )
    dims = {name: dim for name, dim in of.dims.items() if name in own}
    parts = {}
    for name, dim in dims.items():
        values = own[name].chunk(2, dim) if name in OF_GLU else (own[name],)
        found = [part_of(value, dim, of.number, components) for value in values]
        parts[name] = torch.cat(found, dim) if len(found) > 1 else found[0]
    return of, parts


def part_of(
    value: torch.Tensor, dim: int, count: int, components: Sequence[int]
) -> torch.Tensor:
    """The part of a parameter that belongs to some of ``count`` components."""
    if len(components) == count:
        return value
    size = value.size(dim) // count
    if components[-1] - components[0] == len(components) - 1:  # side by side: a view
        return value.narrow(dim, components[0] * size, len(components) * size)
    # By slices: numbers on a device would have to be sent there.
    return torch.cat([value.narrow(dim, c * size, size) for c in components], dim)


def shrink(module: Any, components: Sequence[int]) -> None:
    """Leave some components only, for good: the weights are really smaller."""
    of, parts = _parts(module, components)
    for name, part in parts.items():
        holder, _, key = name.rpartition(".")
        own = torch.nn.Parameter(part.detach().clone())
        setattr(module.get_submodule(holder), key, own)
    if of.counter:
        setattr(module, of.counter, len(components))
    for child in module.children():
        if isinstance(child, torch.nn.Linear):
            child.out_features, child.in_features = child.weight.shape
        elif isinstance(child, torch.nn.Conv1d):
            child.out_channels = len(child.weight)
            child.groups = child.out_channels if child.groups > 1 else 1
            child.in_channels = child.groups * child.weight.size(1)
        elif isinstance(child, torch.nn.BatchNorm1d):
            for name, value in list(child.named_buffers()):
                if value.dim():  # the statistics of each size
                    setattr(child, name, part_of(value, 0, of.number, components).clone())
            child.num_features = len(child.weight)
            if (between := getattr(child, "between", None)) is not None:
                *sizes, of_high = between
                setattr(child, "between", (*sizes, [of_high[c] for c in components]))  # noqa: B010
