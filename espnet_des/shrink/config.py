"""The training config of a supernet that goes on from a trained model: a short fine-tune."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from espnet_des.errors import ConfigError
from espnet_des.nn.encoders import SUPERNETS, stock_name

# Of a config.yaml: where and on what one training ran, and what ESPnet adds by itself.
OF_THE_RUN = {
    "config", "print_config", "dry_run", "output_dir", "ngpu", "resume", "init_param",
    "ignore_init_mismatch", "distributed", "version", "required", "init", "collect_stats",
    "multiprocessing_distributed", "local_rank", "detect_anomaly", "write_collected_feats",
    "patience", "scheduler", "scheduler_conf", "max_epoch", "keep_nbest_models",
    "nbest_averaging_interval", "use_wandb", "log_interval",
}  # fmt: skip
# Keys of encoder_conf and of model_conf that are of the original's own training.
OF_SINGLES = ("kept_layers", "block_drop_rate", "teacher_config", "teacher_model_file")
# Fewer are hard to average over, and to resume from.
EPOCHS = 10
# Averaged at most, of the half of the epochs that lie in stage 2.
AVERAGED = 5
WARM_UP = 0.1
# Schedulers whose scheduler_conf: max_lr takes the place of the optimizer's.
BY_MAX_LR = (
    "onecyclelr", "cycliclr", "cosineannealingwarmuprestarts", "exponentialdecaywarmup"
)  # fmt: skip
# Of the method, where a short fine-tune wants other than a training from scratch, see
# docs/earlier_results.md.
METHOD = {
    "loss_weight_small": 1.0,  # the full size knows its task, the smallest starts from a ruin
    "loss_weight_middle": 0.6,
    "exit_weight": 0.0,  # the model has learned no exits, and would have to
    "distillation_weight": 0.0,  # where the model does not teach, nor does its full size
}
# From such a share of the updates on it wants nothing else: every size is better (RESULTS.md).
LONG = 0.4
# Of stage 1: most of the few updates are for what was chosen.
LEARNING = {"selection_share": 0.25}
# And where the order of the layers is known, so is what each size keeps: it has one update. The
# sizes between are not trained on the way (docs/earlier_results.md: every size is worse with that).
KNOWN = {"updates_per_iteration": 1}


class Length(NamedTuple):
    """Of a fine-tune.

    Attributes:
        max_epoch: number of epochs.
        num_iters_per_epoch: batches of an epoch; None for one pass over the data.
        updates: of the optimizer, in all.
    """

    max_epoch: int
    num_iters_per_epoch: int | None
    updates: int


def length_of(share: float, config: Mapping[str, Any], batches: int) -> Length:
    """A share of the updates that the original was trained with.

    Args:
        share: of its updates.
        config: of it; ``max_epoch`` and ``accum_grad`` count.
        batches: of an epoch of it.

    Raises:
        ConfigError: where not even ten updates are left.
    """
    accum = config["accum_grad"]
    updates = round(share * config["max_epoch"] * (batches // accum))
    if updates < EPOCHS:
        raise ConfigError(
            f"share: {share} of {config['max_epoch']} epochs of {batches // accum} updates is "
            f"{updates} updates: give a larger share, or 0 to train nothing"
        )
    epochs = round(share * config["max_epoch"])
    if epochs >= EPOCHS:
        return Length(epochs, config["num_iters_per_epoch"], epochs * (batches // accum))
    each = updates // EPOCHS
    return Length(EPOCHS, each * accum, EPOCHS * each)


def peak_lr(config: Mapping[str, Any]) -> float:
    """The highest learning rate that a config's optimizer and scheduler reach."""
    lr, conf = config["optim_conf"].get("lr"), config.get("scheduler_conf") or {}
    name = config.get("scheduler")
    if name in BY_MAX_LR:
        lr = conf.get("max_lr", lr)
    elif name == "piecewiselinearwarmuplr":
        lr = max(conf.get("warmup_lr_list", [lr]))
    elif name == "noamlr":
        lr = (
            lr and lr * (conf.get("model_size", 320) * conf.get("warmup_steps", 25000)) ** -0.5
        )
    lr = max(lr) if isinstance(lr, (list, tuple)) else lr
    if not lr:
        raise ConfigError(
            f"lr_factor: the original's optim_conf: {config['optim_conf']} names no learning "
            "rate to take a part of: give one with --optim_conf lr=0.001"
        )
    return float(lr)


def fine_tune(config: Mapping[str, Any], length: Length, lr: float) -> dict[str, Any]:
    """The keys of a config that make it a fine-tune of this length."""
    best = config["keep_nbest_models"]
    best = max(best) if isinstance(best, (list, tuple)) else best
    return {
        "max_epoch": length.max_epoch,
        "num_iters_per_epoch": length.num_iters_per_epoch,
        "optim_conf": {**config["optim_conf"], "lr": lr},
        "scheduler": "onecyclelr",  # a short warm-up, and down to nothing
        "scheduler_conf": {
            "max_lr": lr, "total_steps": length.updates,
            "pct_start": max(WARM_UP, 2.0 / length.updates),  # less divides by 0
            "anneal_strategy": "linear", "cycle_momentum": False,
        },
        "keep_nbest_models": min(best, AVERAGED, max(1, length.max_epoch // 4)),
        "nbest_averaging_interval": 0,
        "patience": None,  # epochs before stage 2 are not compared
    }  # fmt: skip


def own_norm(original: Mapping[str, Any]) -> str:
    """What the original's convolutions have: ESPnet knows BatchNorm only."""
    return (original["encoder_conf"] or {}).get("conv_norm", "batch_norm")


def method_of(share: float) -> dict[str, Any]:
    """Settings of the method for a fine-tune with this share of the updates."""
    return {k: v for k, v in METHOD.items() if share < LONG or k == "distillation_weight"}


def supernet_config(
    original: Mapping[str, Any],
    sizes: Sequence[int] | str | None,
    norm: str,
    share: float = 0.0,
    **model_conf: Any,
) -> dict[str, Any]:
    """The original's training config with a supernet encoder, less what is of its run.

    Args:
        original: content of its ``config.yaml``.
        sizes: numbers of layers, or ``any``; None for a third, two thirds and all.
        norm: of a Conformer's convolutions, see ``encoder_conf: conv_norm``.
        share: of the original's updates.
        **model_conf: settings of the method.
    """
    config = {key: value for key, value in original.items() if key not in OF_THE_RUN}
    config = {key: value for key, value in config.items() if not key.startswith("dist_")}
    encoder = f"des_{stock_name(original['encoder'])}"
    own = SUPERNETS[encoder].block_type.own_keys
    config |= {
        "encoder": encoder,
        "encoder_conf": dict(original["encoder_conf"] or {}),
        "model": "des",
        "model_conf": (original.get("model_conf") or {}) | method_of(share) | model_conf,
    }
    for key in OF_SINGLES:
        config["encoder_conf"].pop(key, None)
        config["model_conf"].pop(key, None)
    if sizes is not None:
        config["encoder_conf"]["sizes"] = "any" if "any" in sizes else list(sizes)
    if "conv_norm" in own and config["encoder_conf"].get("use_cnn_module", True):
        before = own_norm(original)  # only BatchNorm can become another one
        config["encoder_conf"]["conv_norm"] = norm if before == "batch_norm" else before
    return config
