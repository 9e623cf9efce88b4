"""Trained models from their files, with errors that name the file at fault."""

import contextlib
import itertools
import logging
import re
from pathlib import Path

import yaml

from espnet_des.errors import ConfigError, is_of_machine
from espnet_des.inference.named_files import found_files, say_missing

# Of BatchNorm, and the chosen layers; other buffers are constants.
LEARNED_BUFFER = re.compile(r"\.(running_mean|running_var)$|\bselection\.")


def read_config(path: Path | str) -> dict:
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
def named_errors(config: Path | str, model_file: Path | str):
    """Errors of building and loading a model name its files, or what else is at fault.

    Only tensors are loaded from the file (ESPnet's safe_torch_load).

    Yields:
        The config file to build from, see :func:`found_files`.

    Raises:
        ConfigError: where a file is missing, damaged, or not of this config.
        RuntimeError: where the memory, the disk or the GPU fails.
    """
    content = read_config(config)
    if not Path(model_file).is_file():
        raise ConfigError(f"asr_model_file: {model_file} is no file")
    try:
        with found_files(content, config) as found:
            yield found
    except ConfigError:
        raise
    except Exception as error:  # of yaml, typeguard, torch, pickle, zipfile and ESPnet
        # ESPnet hides what torch says behind advice that only fits code in a file.
        for cause in (error.__cause__, error):
            if cause is not None and is_of_machine(cause):
                raise RuntimeError(
                    f"asr_model_file: {model_file} could not be loaded now "
                    f"({type(cause).__name__}: {cause}), but may be whole; try again where there "
                    "is memory enough, and the disk and the GPU work"
                ) from error
        if isinstance(error, FileNotFoundError) and error.filename is not None:
            raise ConfigError(say_missing(content, config, str(error.filename))) from error
        raise ConfigError(
            f"asr_model_file: {model_file} does not load with {config}: it is damaged, "
            f"truncated, or of another config.yaml ({type(error).__name__}: {error})"
        ) from error


def load_model(config: Path | str, model_file: Path | str, device: str = "cpu"):
    """Build a trained model; returns it and its training arguments.

    Files that the config names are found from any working directory, and are whole paths
    in the arguments where it has them not, see :mod:`espnet_des.inference.named_files`.

    Raises:
        ConfigError: where a file is missing, damaged, or not of this config.
        RuntimeError: where the memory, the disk or the GPU fails.
    """
    import espnet2.tasks.asr as asr

    with named_errors(config, model_file) as found:
        with without_decoder_warning():
            model, train_args = asr.ASRTask.build_model_from_file(found, model_file, device)
        check_trained(model, model_file)
    return model, train_args


@contextlib.contextmanager
def without_decoder_warning():
    """ESPnet warns of every CTC model that it has no decoder, also of one that is trained."""

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Set decoder to none")

    logging.getLogger().addFilter(is_other)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_other)


def tensors_of(content: dict) -> dict:
    """The tensors of a model file, also of one of DeepSpeed or Lightning, as ESPnet takes them."""
    for key in ("module", "state_dict"):
        content = content.get(key, content)
    return content


def check_trained(model, model_file: Path | str) -> None:
    """Refuse a file that did not bring the model what it must have learned.

    ESPnet's inference loads with strict=False: what is missing stays random, and
    weights of another type are converted, without a word.
    """
    from espnet2.torch_utils.safe_torch_load import safe_torch_load
    from espnet_des.nn.sizes import is_supernet

    found = safe_torch_load(model_file, map_location="meta")
    if {"model", "optimizers"} <= found.keys():
        raise ConfigError(
            f"asr_model_file: {model_file} is what a training resumes from, not a model; give "
            "a model file beside it, such as valid.*.ave.pth or latest.pth"
        )
    if is_supernet(model) and not (model.state.updates or model.state.is_frozen):
        raise ConfigError(
            f"asr_model_file: {model_file} has no layer selection: it is not of a trained "
            "supernet; give a file of that training, such as its valid.*.ave.pth"
        )
    found = tensors_of(found)
    # ESPnet renames weights of some pretrained front ends; adapters are files of their own.
    own = [name for name, _ in model.named_parameters() if not name.startswith("frontend.")]
    missing = [name for name in own if name not in found]
    if missing and not any("lora_" in name or "adapter" in name for name in own):
        raise ConfigError(
            f"asr_model_file: {model_file} lacks {len(missing)} of the model's weights, such "
            f"as {missing[0]}; give a model file that asr_train wrote beside this config.yaml"
        )
    other = [name for name in own if name in found and not found[name].is_floating_point()]
    if other:
        raise ConfigError(
            f"asr_model_file: {model_file}: {other[0]} is {found[other[0]].dtype}, but weights "
            "must be floating point numbers; give the file as asr_train wrote it"
        )
    buffers = ((k, v) for k, v in model.named_buffers() if LEARNED_BUFFER.search(k))
    values = itertools.chain(model.named_parameters(), buffers)
    broken = [name for name, value in values if not value.isfinite().all()]
    if broken:
        raise ConfigError(
            f"asr_model_file: {model_file} has NaN or infinite values in {len(broken)} "
            f"weights, such as {broken[0]}; give a file of an earlier epoch"
        )
