"""ESPnet's own Conformer beside a supernet: same settings, any number of blocks."""

import argparse
import inspect
from pathlib import Path
from typing import Dict, Tuple

import torch
import yaml

import espnet2.tasks.asr as asr
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet_des.loading import read_config
from espnet_des.options import ConfigError, SelectionOptions


def stock_config(config: Dict, num_blocks: int) -> Tuple[Dict, str]:
    """``config.yaml`` of the stock model, and what of it could not be kept.

    Keys of the plugin are left out. Stock blocks have BatchNorm and ESPnet's
    order of modules; ``input_layer: vgg``, which stock lacks, becomes conv2d.
    """
    known = inspect.signature(ConformerEncoder).parameters
    conf = {k: v for k, v in config["encoder_conf"].items() if k in known}
    # A rate per block would not fit another number of blocks.
    conf.pop("stochastic_depth_rate", None)
    note = ""
    if conf.get("input_layer") == "vgg":
        conf["input_layer"], note = "conv2d", " (conv2d front end)"
    own = SelectionOptions.keys()
    stock = config | {
        "encoder": "conformer",
        "encoder_conf": conf | {"num_blocks": num_blocks},
        "model": "espnet",
        "model_conf": {k: v for k, v in config["model_conf"].items() if k not in own},
        "init": None,
        "init_param": [],
    }
    return stock, note


def save_stock(config: Path, num_blocks: int, folder: Path) -> Tuple[Path, str]:
    """Write a stock Conformer with random weights: config.yaml and model.pth.

    Args:
        config: ``config.yaml`` of a supernet, or of another Conformer.
        num_blocks: its number of blocks.
        folder: where the two files go.

    Returns:
        Path of the model file, and a remark for its name, or "".

    Raises:
        ConfigError: where ESPnet cannot build it.
    """
    content, note = stock_config(read_config(config), num_blocks)
    try:
        # A copy: building changes the arguments.
        args = argparse.Namespace(**yaml.safe_load(yaml.safe_dump(content)))
        model = asr.ASRTask.build_model(args)
    except Exception as error:  # ESPnet's checks of types raise nothing narrower
        raise ConfigError(
            f"stock_blocks: {num_blocks}: ESPnet's Conformer cannot be built with the "
            f"settings of {config} ({type(error).__name__}: {error}); leave stock_blocks out"
        ) from error
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "model.pth", note
