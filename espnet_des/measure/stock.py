"""ESPnet's own model beside a supernet: the same settings, of any number of blocks."""

import argparse
import inspect
from pathlib import Path

import torch
import yaml

import espnet2.tasks.asr as asr
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import read_config
from espnet_des.inference.named_files import with_files_for
from espnet_des.method.options import SelectionOptions
from espnet_des.nn.encoders import BLOCK_TYPES, stock_name
from espnet_des.nn.front_end import is_own


def stock_config(config: dict, num_blocks: int) -> tuple[dict, str]:
    """``config.yaml`` of the stock model, and what of it could not be kept.

    Keys of the plugin are left out. Stock blocks have BatchNorm and ESPnet's
    order of modules; a front end that stock lacks becomes conv2d.
    """
    name = stock_name(config["encoder"])
    assert name is not None  # only such are measured
    known = inspect.signature(BLOCK_TYPES[name].stock).parameters
    conf = {k: v for k, v in config["encoder_conf"].items() if k in known}
    # A rate per block would not fit another number of blocks.
    conf.pop("stochastic_depth_rate", None)
    note = ""
    if is_own(config["encoder_conf"]):
        conf["input_layer"], note = "conv2d", " (conv2d front end)"
    own = SelectionOptions.keys()
    stock = config | {
        "encoder": name,
        "encoder_conf": conf | {"num_blocks": num_blocks},
        "model": "espnet",
        "model_conf": {k: v for k, v in config["model_conf"].items() if k not in own},
        "init": None,
        "init_param": [],
    }
    return stock, note


def save_stock(config: Path, num_blocks: int, folder: Path) -> tuple[Path, str]:
    """Write a stock encoder's model with random weights: config.yaml and model.pth.

    Args:
        config: ``config.yaml`` of a supernet, or of another model with such an encoder.
        num_blocks: its number of blocks.
        folder: where the two files go.

    Returns:
        Path of the model file, and a remark for its name, or "".

    Raises:
        ConfigError: where ESPnet cannot build it.
    """
    content, note = stock_config(read_config(config), num_blocks)
    content = with_files_for(content, config, folder)
    try:
        # A copy: building changes the arguments.
        args = argparse.Namespace(**yaml.safe_load(yaml.safe_dump(content)))
        model = asr.ASRTask.build_model(args)
    except Exception as error:  # ESPnet's checks of types raise nothing narrower
        raise ConfigError(
            f"stock_blocks: {num_blocks}: ESPnet's encoder cannot be built with the "
            f"settings of {config} ({type(error).__name__}: {error}); leave stock_blocks out"
        ) from error
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "model.pth", note
