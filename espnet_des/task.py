"""ESPnet's ASR task, with supernets beside everything that it had.

The class takes the place of ``espnet2.tasks.asr.ASRTask``. Worker processes that
ESPnet spawns unpickle it by this module's name, and so register the plugin too.
"""

import argparse
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from espnet2.tasks import asr
from espnet2.train.distributed_utils import get_rank
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model
from espnet_des.nn.distillation import teaches
from espnet_des.nn.encoders import SUBNETS, SUPERNETS, check_swap
from espnet_des.nn.model import DESModel
from espnet_des.nn.model_conf import check_multi_blank
from espnet_des.nn.taught import TaughtModel
from espnet_des.nn.transducer import trainable_transducers
from espnet_des.training.bad_data import check_ids, check_rate
from espnet_des.training.checkpoints import check_tokens, config_of_checkpoint
from espnet_des.training.settings import (
    check_mappings,
    check_settings,
    check_with_model,
)
from espnet_des.training.trainer import SupernetTrainer

MODEL, TAUGHT = "des", "taught"
# Options that would train the supernet without its Trainer or its counter.
REFUSED_OPTIONS = {
    "use_deepspeed": "DeepSpeed replaces the Trainer that advances the selection",
    "use_adapter": "adapters freeze the layer scores and leave the sets out of checkpoints",
    "sharded_ddp": "the shards hide the layer scores from the selection",
    "lightning_conf": "Lightning replaces the Trainer that advances the selection",
}
# Kept while the plugin's own stands in its place.
STOCK_TASK: Any = asr.ASRTask
MAPPINGS = ("encoder_conf", "model_conf", "frontend_conf", "joint_net_conf")


class ASRTask(STOCK_TASK):
    """ESPnet's ASRTask; hands configs with a supernet to SupernetTask."""

    @classmethod
    def main_worker(cls, args: argparse.Namespace):
        if needs_supernet(args):
            use_supernet_model(args)
            SupernetTask.main_worker(args)
        else:
            super().main_worker(args)

    @classmethod
    def build_model(cls, args: argparse.Namespace):
        if needs_supernet(args):
            use_supernet_model(args)
        elif getattr(args, "model", None) == TAUGHT:
            refuse_data_parallel(args, "share the teacher")
        if getattr(args, "decoder", None) != "transducer":
            return super().build_model(args)
        with trainable_transducers():
            return super().build_model(args)

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: Any
    ) -> list[torch.optim.Optimizer]:
        """As ESPnet's; before, a model that is to have a teacher gets it."""
        if isinstance(model, TaughtModel) and not args.collect_stats:
            learn_from_file(model, *model.teacher_files)
        return super().build_optimizers(args, model)


class SupernetTask(ASRTask):
    """Trains ``model: des``."""

    trainer = SupernetTrainer

    @classmethod
    def main_worker(cls, args: argparse.Namespace):
        check_settings(args)
        leave_out_plots(args)
        folder, rank = Path(args.output_dir), get_rank(args.dist_rank, args.dist_launcher)
        durations = args.model_conf.get("transducer_multi_blank_durations") or []
        added = [f"<blank{duration}>" for duration in durations]
        check_tokens(folder, args.token_list, is_first=not rank, added=added)
        with config_of_checkpoint(folder):
            super(ASRTask, cls).main_worker(args)

    @classmethod
    def build_dataset(cls, args: argparse.Namespace, iter_options, keys_to_load=None):
        """As ESPnet's, after a look at what its tables must agree on."""
        dataset = super().build_dataset(args, iter_options, keys_to_load)
        name = "train" if iter_options.train else "valid"
        check_ids(dataset, keys_to_load, name)
        if args.frontend == "default":
            check_rate(dataset, args.frontend_conf.get("fs", 16000), name)
        return dataset

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: DESModel
    ) -> list[torch.optim.Optimizer]:
        """As ESPnet's, with a parameter group of their own for the scores.

        The last that ESPnet asks for before it writes config.yaml.
        """
        if model.encoder.own is not None:
            model.encoder.own.freeze_with(model.encoder.encoders)
        (optimizer,) = super().build_optimizers(args, model)
        scores = model.encoder.scores
        if not scores.requires_grad:
            raise ConfigError(
                f"freeze_param: {args.freeze_param!r} freezes encoder.scores, which choose "
                "the layers; name the encoder's parts instead of all of it"
            )
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is not scores]
        # No weight decay: it would pull all scores to 0, an open gate half shut.
        optimizer.add_param_group(
            {"params": [scores], "lr": optimizer.defaults["lr"], "weight_decay": 0.0}
        )
        check_with_model(args, model, optimizer)
        options = model.options
        if options.teacher_config is not None and not args.collect_stats:
            learn_from_file(model, options.teacher_config, str(options.teacher_model_file))
        return [optimizer]


def learn_from_file(model: DESModel | TaughtModel, config: str, model_file: str) -> None:
    """Let a trained model teach.

    Args:
        config: the ``config.yaml`` of the teacher.
        model_file: its parameters.

    Raises:
        ConfigError: where it does not load, or spells other tokens.
    """
    weight = next(model.parameters())
    try:
        teacher, _ = load_model(config, model_file, str(weight.device))
    except ConfigError as error:
        raise ConfigError(
            f"model_conf: teacher_config: {config}, teacher_model_file: {model_file}: {error}"
        ) from error
    teacher.to(weight.dtype)
    if list(teacher.token_list) != list(model.token_list):
        raise ConfigError(
            f"model_conf: teacher_config: {config} has another token list than "
            "this training: its posteriors would be of other tokens"
        )
    if not teaches(teacher, model):
        raise ConfigError(
            f"model_conf: teacher_config: {config} is of a model that has none of "
            "the posteriors that this one learns from: both need CTC (ctc_weight above 0), or "
            "both an attention decoder"
        )
    model.learn_from(teacher)


def needs_supernet(args: argparse.Namespace) -> bool:
    encoder = getattr(args, "encoder", None)
    return isinstance(encoder, str) and encoder in SUPERNETS


def leave_out_plots(args: argparse.Namespace) -> None:
    """Without attention weights ESPnet's plots of them would end the training."""
    if args.encoder_conf.get("use_sdpa") and args.num_att_plot:
        logging.warning(
            f"num_att_plot: {args.num_att_plot} is taken for 0: encoder_conf: use_sdpa keeps "
            "no attention weights to plot"
        )
        args.num_att_plot = 0


def use_supernet_model(args: argparse.Namespace) -> None:
    """Let ``model: espnet`` mean ``model: des``; refuse what cannot train one."""
    name = getattr(args, "model", "espnet")
    if name not in ("espnet", MODEL):
        raise ConfigError(
            f"model: {name!r} cannot be used with encoder: {args.encoder}; "
            f"use model: {MODEL} (model: espnet is taken for it)"
        )
    args.model = MODEL
    if getattr(args, "joint_net_conf", None) is None:
        args.joint_net_conf = {}  # ESPnet's default, which a transducer is not built with
    check_mappings(args, MAPPINGS)
    check_swap(args.encoder, getattr(args, "encoder_conf", None) or {})
    if getattr(args, "decoder", None) == "s4" and find_spec("opt_einsum") is None:
        raise ConfigError(
            "decoder: s4 needs the package opt_einsum, which ESPnet does not bring along: "
            "pip install opt_einsum"
        )
    for key, why in REFUSED_OPTIONS.items():
        value = getattr(args, key, None)
        if value or (key == "lightning_conf" and value is not None):
            raise ConfigError(
                f"{key}: {value!r} cannot be used with encoder: {args.encoder} ({why}); "
                "leave it out"
            )
    check_multi_blank(args.model_conf, getattr(args, "decoder", None) == "transducer")
    refuse_data_parallel(args, "share the selection")


def refuse_data_parallel(args: argparse.Namespace, what: str) -> None:
    """Refuse several GPUs in one process.

    Args:
        what: that its copies of the model cannot do.
    """
    if getattr(args, "ngpu", 0) > 1 and not getattr(args, "distributed", True):
        raise ConfigError(
            f"ngpu: {args.ngpu} without distributed training means DataParallel, whose "
            f"copies cannot {what}; add --multiprocessing_distributed true"
        )


def put_in_place(task: type) -> None:
    """Let every module that holds ESPnet's ASRTask by its name hold ``task``."""
    for name, module in list(sys.modules.items()):
        # Some programs put other objects than modules there.
        if getattr(module, "__dict__", {}).get("ASRTask") is STOCK_TASK and name != __name__:
            module.ASRTask = task  # type: ignore[attr-defined]  # found there by its name


asr.encoder_choices.classes.update(SUPERNETS | SUBNETS)
asr.model_choices.classes |= {MODEL: DESModel, TAUGHT: TaughtModel}
put_in_place(ASRTask)
