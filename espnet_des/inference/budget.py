"""The largest size whose cost is within a budget."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espnet_des.errors import ConfigError
from espnet_des.nn.cost_table import WRITE, CostTable, read_cost_table
from espnet_des.nn.costs import macs_of_sizes, parameters_of_sizes
from espnet_des.nn.model import DESModel
from espnet_des.nn.sizes import is_supernet, sizes_of
from espnet_des.nn.waveforms import sampling_rate
from espnet_des.utils.quantity import BYTES, COUNTS, PLAIN, quantity


class Kind(NamedTuple):
    """Of a budget: what is limited, in which units it may be given, and an example."""

    what: str
    units: Mapping[str, int]
    example: str


KINDS = {
    "macs": Kind("MACs per second of audio", COUNTS, "150M"),
    "params": Kind("parameters", COUNTS, "2M"),
    "file_size": Kind("bytes of the model file", BYTES, "4MB"),
    "rtf": Kind("seconds of work per second of audio", PLAIN, "0.005"),
    "ms": Kind("milliseconds", PLAIN, "50"),
}
TIMES = ("rtf", "ms")
QUANTISED = "torch.ao.nn.quantized"  # where torch keeps such modules


class Budget(NamedTuple):
    """A limit: of what, one of ``KINDS``, and how much."""

    key: str
    limit: float


def one_budget(**given: Any) -> Budget:
    """The budget that is given.

    Args:
        **given: by name, numbers or texts such as ``150M``; None for those that are not.

    Raises:
        ConfigError: where it is not exactly one, or no number above 0.
    """
    found = {key: value for key, value in given.items() if value is not None}
    if len(found) != 1:
        told = " ".join(f"{key}: {value!r}" for key, value in found.items()) or "no budget"
        raise ConfigError(f"{told} is given: give exactly one of {list(given)}")
    ((key, value),) = found.items()
    return Budget(key, quantity(key, value, KINDS[key].units, KINDS[key].example))


def check_can_choose(model: Any, key: str) -> None:
    """Refuse a model in which no size can be chosen.

    Raises:
        ConfigError: where it is no supernet, its layers are not chosen yet, or it is
            quantised: torch does not count such products, and hides such weights.
    """
    if not is_supernet(model):
        raise ConfigError(
            f"{key}: a budget chooses among the sizes of a supernet; this is a model of one "
            f"size only ({type(model.encoder).__name__}, layers: {sizes_of(model)}): leave it out"
        )
    if not model.state.is_frozen:
        raise ConfigError(
            f"{key}: no size can be chosen: the model is of stage 1, in which the layers of its "
            "sizes are not chosen yet; use a file of a stage-2 epoch (valid.*.ave.pth is one)"
        )
    if any(type(module).__module__.startswith(QUANTISED) for module in model.modules()):
        raise ConfigError(
            f"{key}: the costs of a quantised model are not known; choose the size with one "
            "that is loaded without quantize_asr_model"
        )


def counted_costs(model: DESModel, key: str, train_args: argparse.Namespace) -> dict[int, int]:
    """``macs`` or ``params`` of every size, ascending; it takes as long as a recognition.

    Args:
        model: a supernet.
        key: which of the two.
        train_args: what ESPnet's build_model_from_file returns beside it.

    Raises:
        ConfigError: where macs cannot be counted.
    """
    if key == "params":
        return parameters_of_sizes(model)
    return macs_of_sizes(model, sampling_rate(train_args))


def table_for(key: str, given: CostTable | Path | str | None) -> CostTable:
    """The cost table that a budget of time needs.

    Args:
        key: one of ``TIMES``.
        given: the table, or its file.

    Raises:
        ConfigError: where none is given, or the file is none.
    """
    if given is None:
        raise ConfigError(
            f"{key}: times are those of a machine: give cost_table as well, a file that "
            f"{WRITE} writes there"
        )
    return given if isinstance(given, CostTable) else read_cost_table(given)


def timed_costs(model: DESModel, key: str, table: CostTable) -> dict[int, float]:
    """``rtf`` or ``ms`` of every size, ascending, as a cost table predicts them.

    Raises:
        ConfigError: where the table is of another model.
    """
    table.check_model(model)
    encoder, times = model.encoder, {}
    for size in encoder.all_sizes:
        ms = table.milliseconds(encoder, encoder.kept_units(size))
        times[size] = ms if key == "ms" else ms / 1000 / table.seconds
    return times


def sizes_within(budget: Budget, costs: Mapping[int, float]) -> list[int]:
    """All sizes whose cost is within the budget, ascending.

    Args:
        budget: the limit.
        costs: of every size; larger sizes need not cost more.

    Raises:
        ConfigError: where there is none.
    """
    found = sorted(size for size, cost in costs.items() if cost <= budget.limit)
    if not found:
        least = min(costs, key=lambda size: costs[size])
        raise ConfigError(
            f"{budget.key}: {shown(budget.limit)} is less than any size needs: size {least} "
            f"needs the least, {shown(costs[least])} {KINDS[budget.key].what}"
        )
    return found


def told(budget: Budget, costs: Mapping[int, float], size: int) -> str:
    """For the user: the size that was chosen, its cost, and that of the next larger one."""
    what = KINDS[budget.key].what
    text = (
        f"Size {size} is chosen: {shown(costs[size])} {what}, within {budget.key}: "
        f"{shown(budget.limit)}"
    )
    larger = min((other for other in costs if other > size), default=None)
    if larger is None:
        return text + "; there is no larger one"
    return text + f"; the next larger one, size {larger}, has {shown(costs[larger])}"


def shown(cost: float) -> str:
    """Integers whole, others with six digits."""
    return f"{round(cost):,}" if cost == round(cost) else f"{cost:.6g}"
