"""What a trained model becomes in a part of its updates, beside supernets from scratch."""

from collections.abc import Sequence

from espnet_des.compare.budgets import of_components
from espnet_des.compare.comparison import comparison
from espnet_des.compare.equal_macs import at_equal_macs
from espnet_des.compare.run import MODEL_FILE
from espnet_des.compare.systems import (
    SHRINK,
    STK,
    Config,
    System,
    random_ranking,
    supernet,
    whole_blocks,
)
from espnet_des.compare.tables import Table
from espnet_des.method.methods import METHODS
from espnet_des.shrink.config import KNOWN, LEARNING, fine_tune, length_of, peak_lr
from espnet_des.shrink.options import BY, LEARNED, ShrinkOptions

# With so many of the updates, and shrunk with the rest of them.
SHORT, SHORT_SHARE = "original_two_thirds", 2 / 3
BY_ANGLE = "angle_0"


def whole(base: Config) -> str:
    """Name of the system of which the others are shrinks."""
    return f"separate_{base['encoder_conf']['sizes'][-1]}"


def original(base: Config, share: float = 1.0) -> Config:
    """The full encoder trained by itself, in a part of the epochs."""
    config = whole_blocks(base, base["encoder_conf"]["sizes"][-1])
    config["max_epoch"] = round(share * config["max_epoch"])
    if "total_steps" in (config.get("scheduler_conf") or {}):
        config["scheduler_conf"]["total_steps"] = (
            config["max_epoch"] * config["num_iters_per_epoch"] // config["accum_grad"]
        )
    return config


def shrunk(
    base: Config, seed: int, share: float, sizes: Sequence[int], words: str = "",
    asr_args: str = "", short: bool = False,
) -> Config:  # fmt: skip
    """Options of a shrink of an original with this seed, and how long it trains."""
    config = original(base, SHORT_SHARE if short else 1.0)
    model = f"shrink_{SHORT}" if short else f"compare_{whole(base)}"
    length = length_of(share, config, config["num_iters_per_epoch"]) if share else None
    method = " ".join(
        f"--model_conf {key}={value}" for key, value in base["model_conf"].items()
        if key.startswith("stochastic_depth")
    )  # fmt: skip
    return config | {
        "max_epoch": length.max_epoch if length else 0,
        "num_iters_per_epoch": length.num_iters_per_epoch if length else 0,
        SHRINK: {
            "shrink": f"exp/asr_{model}_seed{seed}",
            "shrink_args": f"--sizes {' '.join(map(str, sizes))} --share {share} {words}".strip(),
            "asr_args": f"{method} {asr_args}".strip(),
        },
    }


def cut(base: Config, seed: int, share: float, kept: list[int]) -> Config:
    """One size for itself: some layers of an original with this seed, and a fine-tune of them.

    Where an E-Branchformer's block loses a branch, its merge begins anew.
    """
    config = original(base)
    length = length_of(share, config, config["num_iters_per_epoch"])
    lr = ShrinkOptions(share=share).part_of_lr * peak_lr(config)
    config |= fine_tune(config, length, lr)
    config["encoder"] = f"{base['encoder']}_subnet"
    config["encoder_conf"] |= {"kept_layers": kept}
    # What was cut off has no place in the smaller one.
    file = f"exp/asr_compare_{whole(base)}_seed{seed}/{MODEL_FILE}"
    return config | {"init_param": [file], "ignore_init_mismatch": True}


def cut_to_sizes(base: Config) -> list[System]:
    """What ShortGPT does: the layers that turn least are cut off, and each size is fine-tuned."""
    sizes = base["encoder_conf"]["sizes"]
    by_angle = System(
        BY_ANGLE, "ranked by angle, 0%",
        lambda b, s, k: shrunk(b, s, 0, sizes, "--rank_by angle"), sizes,
        begins_with=whole(base),
    )  # fmt: skip
    return [by_angle] + [
        System(f"cut_{size}", "cut by angle, each size fine-tuned by itself, 20%",
               lambda b, s, k, n=size: cut(b, s, 0.2, k[n]), [size], needs=BY_ANGLE,
               begins_with=whole(base), group="cut")
        for size in sizes[:-1]
    ]  # fmt: skip


def shrinks(base: Config) -> list[System]:
    """The trained model, a supernet from scratch, and shrinks of the model."""
    sizes = base["encoder_conf"]["sizes"]
    systems = [system for system in reversed(comparison(base)) if system.group == "separate"]
    systems += [
        System(STK, "supernet from scratch", lambda b, s, k: supernet(b), sizes),
        System(SHORT, "model with two thirds of the updates",
               lambda b, s, k: original(b, SHORT_SHARE), [sizes[-1]]),
        System("equal_updates", "this one shrunk with a third: equal updates in all",
               lambda b, s, k: shrunk(b, s, 1 / SHORT_SHARE - 1, sizes, short=True), sizes,
               begins_with=SHORT),
    ]  # fmt: skip

    def ask(
        name: str, title: str, share: float, words: str = "", own_sizes: Sequence[int] = sizes,
        **more,
    ) -> None:  # fmt: skip
        systems.append(
            System(name, title,
                   lambda b, s, k: shrunk(b, s, share, own_sizes, words, **more), own_sizes,
                   begins_with=whole(base))
        )  # fmt: skip

    for percent in (20, 50):
        ask(f"shrunk_{percent}", f"shrunk with {percent}% of the updates", percent / 100)
    for percent in (0, 1, 5, 20):
        for by in (*BY, LEARNED):
            if (percent, by) in ((20, "loss"), (0, LEARNED)):
                continue  # the default, and what there is not
            title, words = f"ranked by {by}, {percent}%", f"--rank_by {by}"
            ask(f"{by}_{percent}", title, percent / 100, words)
    for name, words in (
        ("layer_norm", "--conv_norm layer_norm"), ("no_teacher", "--teacher 0"),
        ("scores_no_teacher", "--rank_by scores --teacher 0"),
        ("start_by_loss", "--rank_by scores --start_by loss"), ("lr_25", "--lr_factor 0.25"),
        ("lr_100", "--lr_factor 1.0"), ("lr_200", "--lr_factor 2.0"),
    ):  # fmt: skip
        ask(name, f"20%, {words.replace('--', '').replace('_', ' ')}", 0.2, words)
    per_iteration = (sizes[-1] - sizes[0]) // METHODS[STK].num_iterations
    for name, title, model_conf in (
        ("progressive", "the smallest size cut step by step", {
            **LEARNING, "reduction": per_iteration}),
        ("in_place", "taught by its full size", {"distillation_weight": 0.3}),
        ("with_exits", "with exits", {"exit_weight": 0.3}),
        ("usual_method", "settings of a training from scratch", {
            "selection_share": 0.45, "loss_weight_small": 0.3, "loss_weight_middle": 0.3}),
    ):  # fmt: skip
        words = "--teacher 0" if name == "in_place" else ""
        asr_args = " ".join(f"--model_conf {k}={v}" for k, v in model_conf.items())
        ask(name, f"20%, {title}", 0.2, words, asr_args=asr_args)
    ask("shared", "20%, all weights shared", 0.2, asr_args="--encoder_conf own_weights=false")
    parts = "--encoder_conf granularity=component --model_conf budget=macs"
    for by in ("loss", "greedy"):
        ask(f"components_{by}_20", f"components by {by}, sizes by MACs, 20%", 0.2,
            f"--rank_by {by}", asr_args=parts, own_sizes=of_components(sizes))  # fmt: skip
    systems += cut_to_sizes(base)[1:]  # the ranking is among those above
    systems.append(
        System("random_20", "random layers, 20%",
               lambda b, s, k: shrunk(b, s, 0.2, sizes, "--rank_by scores", _random(sizes, s)),
               sizes, begins_with=whole(base))
    )  # fmt: skip
    return systems


def _random(sizes: Sequence[int], seed: int) -> str:
    """The training of an order that is known, of a random one."""
    order = ",".join(map(str, random_ranking(sizes[-1], seed)))
    conf = {
        "method": "fixed",
        "ranking": f"[{order}]",
        "reduction": sizes[-1] - sizes[0],
    } | KNOWN
    return " ".join(f"--model_conf {key}={value}" for key, value in conf.items())


def shrink_tables(table: Table) -> dict[str, str]:
    return {
        "Word error rates": table.error_rates(),
        "Differences to models trained alone": table.differences("separate"),
        "Differences to a supernet from scratch": table.differences(STK),
        "Differences to it at equal MACs": at_equal_macs(table, STK),
        "Differences to random layers": table.differences("random_20"),
        "Differences to layers by the angle": table.differences("angle_20", ["shrunk_20"]),
        "Cost": table.costs(),
    }
