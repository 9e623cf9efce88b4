"""Copies of modules that compute with something else in one place, and share all else."""

from collections.abc import Mapping
from typing import Any

import torch

from espnet_des.espnet_api import put_module, put_parameter, shallow_copy


def with_values(module: torch.nn.Module, values: Mapping[str, torch.Tensor | None]) -> Any:
    """A module like this one that computes with other values.

    Args:
        values: in place of parameters, by their names; they may have a graph.
    """
    new = shallow_copy(module)
    of_children: dict[str, dict[str, torch.Tensor | None]] = {}
    for name, value in values.items():
        child, _, rest = name.partition(".")
        if rest:
            of_children.setdefault(child, {})[rest] = value
        else:
            put_parameter(new, name, value)
    for child, own in of_children.items():
        put_module(new, child, with_values(module.get_submodule(child), own))
    return new


def with_module(block: torch.nn.Module, name: str, module: torch.nn.Module) -> Any:
    """A block like this one with another module under a name."""
    new = shallow_copy(block)
    put_module(new, name, module)
    return new
