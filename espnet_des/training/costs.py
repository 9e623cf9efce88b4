"""What the units of a supernet cost, of which its sizes are made: counted, or from a table."""

import torch

from espnet_des.errors import ConfigError
from espnet_des.nn.cost_table import read_cost_table
from espnet_des.nn.macs import macs_of_layers
from espnet_des.nn.model import DESModel

# Of features, for which MACs are counted: 10 s of speech with a hop of 10 ms.
FRAMES = 1000
# Of the mean cost of a unit.
LEAST = 0.001


def set_costs(model: DESModel) -> None:
    """Give the units of a new supernet the costs that its budget is about.

    They are relative: together the number of layers. Of a layer each component has the same.
    From here on they are in the state dict, and a table of times is not needed again.

    Args:
        model: whose training begins.

    Raises:
        ConfigError: where the table is none of this model.
    """
    encoder, options, state = model.encoder, model.options, model.state
    if options.budget == "layers":
        return
    of_layers = {"params": _parameters, "macs": _macs, "ms": _milliseconds}[options.budget](
        model
    )
    costs = [
        cost / len(units) for cost, units in zip(of_layers, encoder.units_of) for _ in units
    ]
    found = torch.tensor(costs, dtype=torch.float64)
    if not found.sum() > 0:
        raise ConfigError(
            f"model_conf: cost_table: {options.cost_table}: its layers take no time at all; make "
            "one with more rounds or longer audio"
        )
    found = found.clamp(min=LEAST * found.mean())  # a measured time may be 0
    # In float32, so that averaging over epochs gives the same numbers again.
    state.costs.copy_((found * encoder.num_layers / found.sum()).float())


@torch.no_grad()
def _macs(model: DESModel) -> list[float]:
    encoder, was_training = model.encoder, model.training
    features = torch.zeros(1, FRAMES, encoder.input_size).to(encoder.scores)
    model.eval()  # nothing is drawn, and no statistics change
    front = encoder.subsample(features, torch.tensor([FRAMES], device=features.device))
    macs = macs_of_layers(encoder, front, model.ctc)
    model.train(was_training)
    return [layer.of(len(own)) for layer, own in zip(macs, encoder.units_of)]


def _milliseconds(model: DESModel) -> list[float]:
    table = read_cost_table(str(model.options.cost_table))
    table.check_model(model)
    return [table.layers[layer.kind] for layer in model.encoder.layers]


def _parameters(model: DESModel) -> list[float]:
    return [float(number) for number in model.encoder.parameters_of_layers()]
