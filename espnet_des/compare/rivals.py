"""Other ways to several sizes from one training, or from one trained model, beside supernets."""

from pathlib import Path

from espnet_des.compare.budgets import budgets
from espnet_des.compare.comparison import comparison
from espnet_des.compare.equal_macs import at_equal_macs, macs
from espnet_des.compare.run import MODEL_FILE
from espnet_des.compare.shrinks import BY_ANGLE, cut_to_sizes, whole
from espnet_des.compare.systems import STK, Config, System, layer_drop, supernet, whole_blocks
from espnet_des.compare.tables import Table

# Systems of the comparison that are variants of others which stand here.
LEFT_OUT = ("simple_top_k_shared", "iterative_zero_out_shared", "even", "layer_drop")
# Of the blocks: how many are dropped in a batch. Fan et al. recommend it where small models are
# wanted, and Hannan et al. have it.
DROPPED = 0.5
# For models alone, which have nothing like the stochastic depth of supernets.
DROPOUT = dict.fromkeys(
    ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"), 0.1
)


def taught(config: Config, base: Config, seed: int) -> Config:
    """A model alone, taught by the full one that was trained by itself with this seed."""
    folder = f"exp/asr_compare_{whole(base)}_seed{seed}"
    teacher = {
        "teacher_config": f"{folder}/config.yaml",
        "teacher_model_file": f"{folder}/{MODEL_FILE}",
        "distillation_weight": 0.3,
    }
    return config | {"model": "taught", "model_conf": config["model_conf"] | teacher}


def rivals(base: Config) -> list[System]:
    """Supernets of layers and of components, models alone, and what others have published.

    The list is what the question "which way to several sizes?" needs; variants of the supernets
    are compared elsewhere.
    """
    sizes = base["encoder_conf"]["sizes"]
    systems = [system for system in comparison(base) if system.name not in LEFT_OUT]
    systems += [system for system in budgets(base) if system.name == "components_three"]
    systems += [
        System(f"dropout_{size}", "trained separately, whole blocks, with dropout",
               lambda b, s, k, n=size: whole_blocks(supernet(b, DROPOUT), n), [size],
               group="dropout")
        for size in sizes
    ]  # fmt: skip
    systems += [
        System(f"taught_{size}", "whole blocks, taught by the full size",
               lambda b, s, k, n=size: taught(whole_blocks(b, n), b, s), [size],
               begins_with=whole(base), group="taught")
        for size in sizes[:-1]
    ]  # fmt: skip
    systems += [
        System("layer_drop_half", "LayerDrop at .5, evenly spaced blocks kept",
               lambda b, s, k: layer_drop(b, DROPPED), sizes),
        # Hannan et al., arXiv 2601.16117. [DEVIATION] The weight of what the teacher teaches is
        # ours, and a block that is dropped is left out with its final norm.
        System("layer_drop_taught", "LayerDrop at .5 with a teacher",
               lambda b, s, k: taught(layer_drop(b, DROPPED), b, s), sizes,
               begins_with=whole(base)),
        *cut_to_sizes(base),
    ]  # fmt: skip
    return systems


def rival_tables(table: Table) -> dict[str, str]:
    return {
        "Word error rates": table.error_rates(),
        "Differences to separately trained models": table.differences("separate"),
        "Differences to the supernet (above 0: more errors than it)": table.differences(STK),
        "Differences to it at equal MACs (between two of its sizes a straight line, which is "
        "up to 5% too high)": at_equal_macs(table, STK),
        "Clean and noisy": table.rates_by_set(),
        "MACs": macs(table),
        "Parameters": table.parameters(),
        "Cost": table.costs(),
    }


def draw_rivals(table: Table, base: Config, folder: Path) -> None:
    from espnet_des.plot.rates import draw_rates_by_cost
    from espnet_des.plot.style import save

    save(draw_rates_by_cost(table, STK, [BY_ANGLE]), folder / "rivals.png")
