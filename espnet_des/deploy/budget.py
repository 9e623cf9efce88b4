"""Extract or export the largest size that is within a budget."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_des.deploy.extract import extract_subnet, file_size
from espnet_des.deploy.slices import read_slices
from espnet_des.errors import ConfigError
from espnet_des.inference.budget import (
    KINDS,
    TIMES,
    Budget,
    check_can_choose,
    counted_costs,
    one_budget,
    sizes_within,
    table_for,
    timed_costs,
    told,
)
from espnet_des.inference.loading import load_model
from espnet_des.nn.cost_table import WRITE
from espnet_des.nn.costs import parameters_of_sizes

if TYPE_CHECKING:
    from espnet_des.deploy.onnx.export import Exported
    from espnet_des.deploy.onnx.sizes import Shared

# What may stand in place of a size.
CHOICES = (*KINDS, "cost_table", "slices")


def extract_within(**arguments: Any) -> Path:
    """:func:`extract_subnet` of a size, or of the largest one within a budget.

    Args:
        **arguments: those of extract_subnet, and of :func:`chosen_size` in place of size.

    Raises:
        ConfigError: where no size is within it, or as in extract_subnet.
    """
    return extract_subnet(**_with_size(arguments, needs_size=True, runtime=None))


def export_within(**arguments: Any) -> "Exported | list[Shared]":
    """:func:`export_onnx` of a size, or of the largest one within a budget, or of several.

    Args:
        **arguments: those of export_onnx, which need no size, and of :func:`chosen_size`; or
            ``sizes`` in place of these, for :func:`export_sizes`.

    Raises:
        ConfigError: where no size is within it, or as in export_onnx.
    """
    # Here: to extract needs no ONNX, which is an extra.
    from espnet_des.deploy.onnx.export import export_onnx
    from espnet_des.deploy.onnx.sizes import export_sizes

    sizes = arguments.pop("sizes", None)
    if sizes is None:
        runtime = "onnx-int8" if arguments.get("quantize") == "int8" else "onnx"
        return export_onnx(**_with_size(arguments, needs_size=False, runtime=runtime))
    for key in ("size", *CHOICES):
        if arguments.pop(key, None) is not None:
            raise ConfigError(f"{key}: is given beside sizes: {sizes}; give one of the two")
    return export_sizes(sizes=sizes, **arguments)


def _with_size(
    arguments: Mapping[str, Any], needs_size: bool, runtime: str | None
) -> dict[str, Any]:
    """The arguments with a size in place of what chooses it, where something does."""
    asked = {key: value for key, value in arguments.items() if key in CHOICES}
    given = {key: value for key, value in arguments.items() if key not in CHOICES}
    size = given.get("size")
    if is_asked(asked) or (needs_size and size is None):
        files = given["asr_train_config"], given["asr_model_file"]
        given["size"] = chosen_size(*files, size=size, runtime=runtime, **asked)
    return given


def is_asked(asked: Mapping[str, Any]) -> bool:
    """True where something of a budget is given."""
    return any(value is not None for value in asked.values())


def chosen_size(
    asr_train_config: Path,
    asr_model_file: Path,
    *,
    size: int | None = None,
    runtime: str | None = None,
    cost_table: Path | None = None,
    slices: Path | None = None,
    **budgets: float | str | None,
) -> int:
    """The largest size of a supernet within a budget; says which, and what it costs.

    Args:
        asr_train_config: ``config.yaml`` of the supernet.
        asr_model_file: its parameters, of stage 2.
        size: must not be given beside a budget.
        runtime: that the cost table must be of; None for any.
        cost_table: for ``rtf`` and ``ms``, see :mod:`espnet_des.measure.cost_table`.
        slices: measured sizes, which alone count then, see :func:`read_slices`. If several
            are within the budget, that of the lowest mean word error rate is taken.
        **budgets: exactly one of ``macs``, ``params``, ``file_size`` (of the model file that
            is extracted), ``rtf`` and ``ms``, a number or a text such as ``150M``.

    Raises:
        ConfigError: where no size is within it, or the arguments do not fit together.
    """
    if size is not None or not is_asked(budgets):
        keys = ["size", *budgets]
        given = {"size": size, "cost_table": cost_table, "slices": slices} | budgets
        found = " ".join(
            f"{key}: {value}" for key, value in given.items() if value is not None
        )
        raise ConfigError(f"{found or 'nothing'} is given: give exactly one of {keys}")
    budget = one_budget(**budgets)
    if cost_table is not None and (slices is not None or budget.key not in TIMES):
        raise ConfigError(
            f"cost_table: {cost_table} tells times; it is for one of {list(TIMES)}, without slices"
        )
    if slices is not None and budget.key in TIMES and (runtime or "pytorch") != "pytorch":
        raise ConfigError(
            f"slices: {slices} has times of PyTorch, and the model is for {runtime}: give a "
            f"cost_table of that ({WRITE} --runtime {runtime}), or macs in place of {budget.key}"
        )
    needs_table = budget.key in TIMES and slices is None
    table = table_for(budget.key, cost_table) if needs_table else None
    if table is not None and runtime is not None:
        table.check_runtime(runtime)
    model: Any
    model, train_args = load_model(asr_train_config, asr_model_file)
    check_can_choose(model, budget.key)
    wers: Mapping[int, float] = {}
    costs: Mapping[int, float]
    if slices is not None:
        costs, wers = read_slices(slices, budget.key, parameters_of_sizes(model))
    elif table is not None:
        costs = timed_costs(model, budget.key, table)
    elif budget.key == "file_size":
        costs = {size: file_size(model, size) for size in model.encoder.all_sizes}
    else:
        costs = counted_costs(model, budget.key, train_args)
    return _best(budget, costs, wers)


def _best(budget: Budget, costs: Mapping[int, float], wers: Mapping[int, float]) -> int:
    """The size to take, which is told."""
    within = sizes_within(budget, costs)
    # Of equal ones the largest.
    best = min(within, key=lambda size: (wers.get(size, 0.0), -size))
    text = told(budget, costs, best)
    if best != within[-1]:
        text += (
            f". It is not the largest within the budget, size {within[-1]}, whose mean WER is "
            f"higher: {wers[within[-1]]:.2f}%, and {wers[best]:.2f}% at size {best}"
        )
    print(text)
    return best
