"""What a shrink starts its training from: a config and initial weights."""

import argparse
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

import espnet2.tasks.asr as asr
from espnet2.torch_utils.device_funcs import to_device
from espnet2.train.distributed_utils import DistributedOption
from espnet2.utils.build_dataclass import build_dataclass
from espnet_des.deploy.extract import write_state
from espnet_des.errors import ConfigError
from espnet_des.espnet_api import CHECKPOINT, read_tokens
from espnet_des.method.options import check_fits
from espnet_des.nn.distillation import has_posteriors, without_error_rates
from espnet_des.nn.model import DESModel
from espnet_des.shrink.config import (
    KNOWN,
    LEARNING,
    fine_tune,
    length_of,
    own_norm,
    peak_lr,
    supernet_config,
)
from espnet_des.shrink.options import LEARNED, ShrinkOptions
from espnet_des.shrink.original import Original
from espnet_des.shrink.ranking import rank_units, scores_of
from espnet_des.shrink.weights import weights_of
from espnet_des.training.costs import set_costs
from espnet_des.training.trainer import count_updates
from espnet_des.utils.files import alone_in, write_atomically

CONFIG, INITIAL, UNTRAINED = "shrink.yaml", "initial.pth", "ranked.pth"
# Options of asr_train that name files, each in front of its first comma.
FILES = [f"{phase}_{what}" for phase in ("train", "valid")
         for what in ("data_path_and_name_and_type", "shape_file")]  # fmt: skip
# Options of asr_train that a shrink chooses itself.
OF_THE_SHARE = {
    "max_epoch",
    "num_iters_per_epoch",
    "scheduler",
    "scheduler_conf",
    "init_param",
}
# What the original and the supernet must have in common.
ALIKE = ("input_size", "token_type", "frontend", "normalize", "preencoder", "postencoder",
         "decoder")  # fmt: skip


def prepare(
    original: Original, output_dir: Path, options: ShrinkOptions, training: Sequence[str] = ()
) -> Path:
    """Write what ``asr_train`` makes the supernet with, or without training the supernet.

    Everything is checked before anything is written. Where the same training has begun in
    ``output_dir`` already, it can go on.

    Args:
        original: the trained model, which is only read.
        output_dir: of the training.
        training: more options of ``asr_train``: data, statistics, and what is to be otherwise.

    Returns:
        ``shrink.yaml`` for ``asr_train``; with a share of 0 the ``config.yaml`` of the
        supernet, with the model ``ranked.pth`` beside it.

    Raises:
        ConfigError: naming the option, its value and what would be right.
    """
    output_dir = Path(output_dir)
    check_folder(original, output_dir)
    taken = {word[2:].partition("=")[0] for word in training if word.startswith("--")}
    for key in sorted(taken & OF_THE_SHARE):
        raise ConfigError(
            f"{key}: leave it out: how long and how fast a shrink learns, and what it begins with, "
            "follow from --share, --lr_factor and the original"
        )
    stage_1 = LEARNING if options.rank_by == LEARNED else KNOWN
    plain = supernet_config(
        original.config, options.sizes, options.conv_norm, options.share, **stage_1
    )
    # An older ESPnet knew other keys.
    known = vars(asr.ASRTask.get_parser().parse_args([]))
    plain = {key: value for key, value in without(plain, taken).items() if key in known}
    args = parsed(plain, training)
    method = args.model_conf.get("method", "fixed")
    if options.rank_by != LEARNED and method != "fixed":
        raise ConfigError(
            f"rank_by: {options.rank_by!r} leaves nothing for method: {method} to learn: give "
            f"--rank_by {LEARNED} with it"
        )
    check_files(args)
    check_same(args, original)
    config = plain | without(training_of(original, args, options), taken)
    supernet = built(config, training)
    if options.share:  # fails now, where it is too short
        encoder, updates = supernet.encoder, config["scheduler_conf"]["total_steps"]
        if options.rank_by != LEARNED and supernet.options.reduction is None:
            config["model_conf"]["reduction"] = encoder.num_layers - encoder.sizes[0]
            supernet = built(config, training)
            encoder = supernet.encoder
        check_fits(
            supernet.options.resolve(encoder.num_layers, encoder.sizes[0], updates), updates
        )
    if options.start_by is not None and supernet.encoder.scores.dim() != 1:
        raise ConfigError(
            f"start_by: {options.start_by!r} is no start for the scores of method: "
            f"{supernet.options.method}, which are {tuple(supernet.encoder.scores.shape)}: leave "
            "it out"
        )
    weights = weights_of(original.model, supernet)
    # Measured again, nearly equal layers could change their places.
    orders = ranked_before(output_dir, options)
    if options.orders - orders.keys():
        # As it is, whatever norm the supernet will have. The exits are not trained: they would
        # be noise in the loss.
        same = supernet_config(original.config, options.sizes, own_norm(original.config))
        as_it_is = config | {"encoder_conf": same["encoder_conf"]}
        model = built(as_it_is, [*training, "--model_conf", "exit_weight=0.0"])
        model.load_state_dict(model.state_dict() | weights_of(original.model, model))
        without_error_rates(model)  # the ranking asks for losses only
        device = "cuda" if args.ngpu and torch.cuda.is_available() else "cpu"
        model.to(device)
        data = [to_device(batch, device) for batch in first_batches(args, options.calibration)]
        orders = {by: rank_units(model, data, by) for by in options.orders}
    if order := orders.get(options.start_by or ""):
        weights["encoder.scores"] = scores_of(order, supernet)
    elif options.rank_by != LEARNED:
        config["model_conf"] |= {"method": "fixed", "ranking": orders[options.rank_by]}
        supernet = built(config, training)
    if not options.share:
        set_costs(supernet)
        supernet.state.freeze(torch.tensor(orders[options.rank_by]))
        weights = supernet.state_dict() | weights
        own = {"output_dir": str(output_dir), "config": None}
        whole = vars(parsed(config, training)) | own
        return _write(output_dir, "config.yaml", whole, UNTRAINED, weights)
    config["init_param"] = [str(output_dir / INITIAL)]
    return _write(output_dir, CONFIG, config, INITIAL, weights, head=_head(options))


def without(config: Mapping[str, Any], taken: Collection[str]) -> dict[str, Any]:
    """A config less the keys that options give; these change ``..._conf`` key by key.

    ESPnet would add the options' data to those of the config.
    """
    return {k: v for k, v in config.items() if k not in taken or k.endswith("_conf")}


def _head(options: ShrinkOptions) -> str:
    """First line of a training's config: what its other lines do not tell."""
    by = options.start_by if options.rank_by == LEARNED else options.rank_by
    return f"# ranked by: {by}, with {options.calibration} utterances\n"


def ranked_before(folder: Path, options: ShrinkOptions) -> dict[str, list[int]]:
    """The order with which a training has begun in the folder, if one has.

    Where scores are learned it is in the checkpoint, and empty here.
    """
    path = folder / CONFIG
    if not options.orders or not (folder / CHECKPOINT).exists() or not path.exists():
        return {}
    text = path.read_text("utf-8")
    if not text.startswith(_head(options)):
        return {}  # will be refused
    (by,) = options.orders
    return {by: yaml.safe_load(text)["model_conf"].get("ranking", [])}


def needs_training(config: Path) -> bool:
    """False of what :func:`prepare` has written with a share of 0."""
    return config.name == CONFIG


def training_of(
    original: Original, args: argparse.Namespace, options: ShrinkOptions
) -> dict[str, Any]:
    """Keys of the config that are of the training; the model's settings among them."""
    model_conf = dict(args.model_conf)
    # They say the same thing: the shrink's own makes way for the user's.
    own, other = "selection_share", "updates_per_iteration"
    if options.rank_by != LEARNED:
        own, other = other, own
    if model_conf.get(other) is not None:
        model_conf.pop(own, None)
    if options.teacher and not has_posteriors(original.model):
        logging.info(
            "The original teaches nothing: a transducer without CTC has no posteriors"
        )
    elif options.teacher:
        model_conf |= {
            "distillation_weight": options.teacher,
            "teacher_config": str(original.config_file),
            "teacher_model_file": str(original.model_file),
        }
    if not options.share:
        return {"model_conf": model_conf}
    counted = original.config | {"accum_grad": args.accum_grad}
    length = length_of(options.share, counted, batches_of(args))
    lr = options.part_of_lr * peak_lr(original.config | {"optim_conf": args.optim_conf})
    logging.info(
        f"The supernet is to be trained with {length.updates} updates ({length.max_epoch} "
        f"epochs), and a learning rate up to {lr:.3g}"
    )
    return fine_tune(original.config, length, lr) | {"model_conf": model_conf}


def check_folder(original: Original, output_dir: Path) -> None:
    """Refuse the original's own folder."""
    taken = [p.resolve().parent for p in (original.config_file, original.model_file)]
    if Path(output_dir).resolve() in taken:
        raise ConfigError(
            f"output_dir: {output_dir} is the folder of the original, which is only read; give "
            f"another one, such as {taken[0]}_shrunk"
        )


def parsed(config: Mapping[str, Any], training: Sequence[str]) -> argparse.Namespace:
    """What ``asr_train`` reads from a config and options."""
    with tempfile.TemporaryDirectory(prefix="espnet_des.") as folder:
        file = Path(folder) / CONFIG
        file.write_text(yaml.safe_dump(dict(config), sort_keys=False), "utf-8")
        parser = asr.ASRTask.get_parser()
        return parser.parse_args(["--config", str(file), "--output_dir", folder, *training])


def check_files(args: argparse.Namespace) -> None:
    """Refuse data that are not there, which the original's config may name."""
    for key in FILES:
        values = getattr(args, key)
        for value in values:
            value = value[0] if isinstance(value, (list, tuple)) else value.partition(",")[0]
            if not Path(value).exists():
                raise ConfigError(
                    f"{key}: {value} is not there; give the data to train with as for "
                    f"asr_train, with --{key}"
                )
        if not values and key.endswith("type"):
            raise ConfigError(f"{key}: [] names no data: give --{key} FILE,NAME,TYPE")


def check_same(args: argparse.Namespace, original: Original) -> None:
    """Refuse other features or tokens than the original has learned."""
    for key in ALIKE:
        mine, theirs = getattr(args, key), original.config.get(key)
        if key in original.config and mine != theirs:
            raise ConfigError(
                f"{key}: {mine!r} must be {theirs!r}, as of the original: it has learned nothing "
                "else"
            )
    mine, theirs = args.token_list, list(original.config["token_list"])
    if isinstance(mine, str):
        mine = read_tokens(mine)
    if list(mine) != theirs:
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(mine, theirs)) if a != b]
        where = f"token {pairs[0][0]} is {pairs[0][1]!r}, not {pairs[0][2]!r}" if pairs else (
            f"it has {len(mine)} tokens, not {len(theirs)}"
        )  # fmt: skip
        raise ConfigError(
            f"token_list: it is another one than the original's ({where}): its output layers "
            "would spell other tokens. Give data in the original's tokens"
        )


def iterator(args: argparse.Namespace, mode: str) -> Any:
    """ESPnet's batches of an epoch."""
    distributed = build_dataclass(
        DistributedOption, argparse.Namespace(**vars(args), distributed=False)
    )
    return asr.ASRTask.build_iter_factory(args, distributed, mode)


def batches_of(args: argparse.Namespace) -> int:
    """Number of updates in one epoch, times accum_grad."""
    found = count_updates(iterator(args, "train"), 1)
    if found is None:
        raise ConfigError(
            f"iterator_type: {args.iterator_type!r} does not tell how many batches an epoch "
            "has, from which the learning rate must be planned; give --iterator_type sequence"
        )
    return found


def built(config: Mapping[str, Any], training: Sequence[str]) -> DESModel:
    return asr.ASRTask.build_model(parsed(config, training))


def first_batches(args: argparse.Namespace, utterances: int) -> Iterator[dict]:
    """Validation data, as the model takes them, until there are so many utterances."""
    for _, batch in iterator(args, "valid").build_iter(1):
        yield {key: value for key, value in batch.items() if key != "utt_id"}
        utterances -= len(batch["speech"])
        if utterances <= 0:
            return


def _write(
    folder: Path, name: str, config: dict, file: str, weights: dict[str, torch.Tensor],
    head: str = "",
) -> Path:  # fmt: skip
    text = head + yaml.safe_dump(config, sort_keys=False, indent=4)
    path = folder / name
    # A training that has no checkpoint yet must find what it wrote.
    with alone_in(folder, "training"):
        if (folder / CHECKPOINT).exists() and (
            not path.exists() or path.read_text("utf-8") != text
        ):
            raise ConfigError(
                f"output_dir: {folder} holds a training that began otherwise; give the options "
                "that it began with, to go on with it, or another folder (in a recipe, another "
                "--asr_tag)"
            )
        if not (folder / CHECKPOINT).exists():
            write_state(weights, folder / file)
            write_atomically(path, lambda partial: partial.write_text(text, "utf-8"))
    return path
