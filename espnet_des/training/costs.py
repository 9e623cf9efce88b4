"""What the units of a supernet cost, of which its sizes are made: counted, or from a table."""

import torch

from espnet_des.nn.cost_table import read_cost_table
from espnet_des.nn.costs import SECONDS
from espnet_des.nn.macs import count_macs_of_units
from espnet_des.nn.model import DESModel


def set_costs(model: DESModel, rate: int) -> None:
    """Give the units of a new supernet the costs that its budget is about.

    They are relative: together the number of layers. From here on they are in the state
    dict, and a table of times is not needed again.

    Args:
        model: whose training begins.
        rate: samples per second of what it takes.

    Raises:
        ConfigError: where MACs cannot be counted, or the table is none of this model.
    """
    encoder, options, state = model.encoder, model.options, model.state
    if options.budget == "layers":
        return
    if options.budget == "macs":
        speech = torch.zeros(1, int(SECONDS * rate)).to(next(model.parameters()))
        costs = count_macs_of_units(model, speech).units
    else:
        costs = [
            cost / len(own) for cost, own in zip(_of_layers(model), encoder.units_of) for _ in own
        ]
    found = torch.tensor(costs, dtype=torch.float64)
    state.costs.copy_(found * encoder.num_layers / found.sum())


def _of_layers(model: DESModel) -> list[float]:
    """Parameters of each layer, or its milliseconds; of a layer each component has as much."""
    encoder = model.encoder
    if model.options.budget == "ms":
        table = read_cost_table(str(model.options.cost_table))
        table.check_model(model)
        return [table.layers[layer.kind] for layer in encoder.layers]
    kind = encoder.block_type
    return [
        sum(p.numel() for m in kind.modules(encoder.encoders[layer.block], layer.kind)
            for p in m.parameters())
        for layer in encoder.layers
    ]  # fmt: skip
