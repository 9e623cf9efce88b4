"""Trained models from their files, with errors that name the file at fault."""

import contextlib
from pathlib import Path
from typing import Dict

import yaml

from espnet_des.options import ConfigError


def read_config(path: Path) -> Dict:
    """The ``config.yaml`` of a training.

    Raises:
        ConfigError: where there is none, or it is not one of an ASR training.
    """
    try:
        with open(path, encoding="utf-8") as f:
            config = yaml.safe_load(f)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"asr_train_config: {path} cannot be read ({error}); give the config.yaml "
            "that asr_train wrote beside the model"
        ) from error
    if not isinstance(config, dict) or not {"encoder", "token_list"} <= config.keys():
        raise ConfigError(
            f"asr_train_config: {path} is not of a training of speech recognition: it has "
            "no encoder or no token_list; give the config.yaml that asr_train wrote"
        )
    return config


@contextlib.contextmanager
def named_errors(config: Path, model_file: Path):
    """Errors of building and loading a model name its files.

    Only tensors are loaded from the file (ESPnet's safe_torch_load).

    Raises:
        ConfigError: where a file is missing, damaged, or not of this config.
    """
    read_config(config)
    if not Path(model_file).is_file():
        raise ConfigError(f"asr_model_file: {model_file} is no file")
    try:
        yield
    except ConfigError:
        raise
    except (RuntimeError, EOFError, OSError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"asr_model_file: {model_file} does not load with {config}: it is damaged, "
            f"truncated, or of another config.yaml ({type(error).__name__}: {error})"
        ) from error


def load_model(config: Path, model_file: Path, device: str = "cpu"):
    """Build a trained model; returns it and its training arguments.

    Raises:
        ConfigError: where a file is missing, damaged, or not of this config.
    """
    import espnet2.tasks.asr as asr

    with named_errors(config, model_file):
        model, train_args = asr.ASRTask.build_model_from_file(config, model_file, device)
    check_trained(model, model_file)
    return model, train_args


def check_trained(model, model_file: Path) -> None:
    """Refuse a supernet whose file did not bring its layer selection.

    ESPnet's inference loads with strict=False, so that a stock Conformer's file,
    which --init_param takes, would pass here as well.
    """
    if hasattr(model, "set_size") and not model.state.updates:
        raise ConfigError(
            f"asr_model_file: {model_file} has no layer selection: it is not of a trained "
            "supernet; give a file of that training, such as its valid.*.ave.pth"
        )
