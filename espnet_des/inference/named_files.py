"""The files that a config.yaml names: found also where the recipe is not the working directory.

ESPnet writes paths as they were given in the recipe's folder, ``exp/asr_stats/feats_stats.npz``
for example, and reads them from the working directory. The recipe's folder is one of those
above ``config.yaml``, so that they can be told from any other place as well.
"""

import contextlib
import copy
import filecmp
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer
from espnet_des.errors import ConfigError

# What is read to build a model or its tokenizer. Files of the training alone, such as its data,
# need not be there any more.
FILES = ("token_list", "bpemodel")
PARTS = ("frontend", "specaug", "normalize", "preencoder", "encoder", "postencoder", "decoder",
         "joint_net", "ctc", "model", "adapter")  # fmt: skip
# Keys of model_conf, whose files the training alone reads.
OF_TRAINING = ("teacher_config", "teacher_model_file", "cost_table")


def with_found_files(config: dict, config_file: Path | str) -> dict:
    """The config with whole paths of those files that the working directory has not.

    Raises:
        ConfigError: where a path is of two files, and none can be preferred.
    """

    def replace(key: str, path: str) -> str:
        found = find(key, path, config_file)
        if found is None or os.path.isfile(path):
            return path
        logging.info(f"{key}: {path} is taken from {found}")
        return str(found)

    return _changed(config, replace)


def with_files_for(config: dict, config_file: Path | str, folder: Path) -> dict:
    """The config as it is to be written into another folder.

    A path stays as it is where it leads to the same file from there; else it becomes whole.
    """

    def replace(key: str, path: str) -> str:
        found = find(key, path, config_file)
        there = _candidates(path, folder / "config.yaml")
        if found is None or (there and all(_is_same(found, other) for other in there)):
            return path
        return str(found)

    return _changed(config, replace)


@contextlib.contextmanager
def found_files(config: dict, config_file: Path | str) -> Iterator[Path]:
    """A config file that ESPnet can build from: that one, or a copy with whole paths.

    Raises:
        ConfigError: as :func:`with_found_files`.
    """
    found = with_found_files(config, config_file)
    if found == config:
        yield Path(config_file)
        return
    with tempfile.TemporaryDirectory(prefix="espnet_des.") as folder:
        copied = Path(folder) / "config.yaml"
        copied.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
        yield copied


def find(key: str, path: str, config_file: Path | str) -> Path | None:
    """The file that a path of a config means; None where there is none.

    It is the working directory's, as for ESPnet, or one of a folder above the config.

    Raises:
        ConfigError: where they differ. A working directory above the config is the recipe's.
    """
    here = Path(path).absolute()
    above = _candidates(path, config_file)
    if os.path.isabs(path) or here in above:
        return here if os.path.isfile(here) else None
    found = ([here] if os.path.isfile(here) else []) + above
    others = [other for other in found[1:] if not _is_same(found[0], other)]
    if others:
        raise ConfigError(
            f"asr_train_config: {config_file}: {key}: {path} can be {found[0]} or {others[0]}, "
            f"which differ; write the whole path of the right one into {config_file}"
        )
    return found[0] if found else None


def say_missing(config: dict, config_file: Path | str, file: str) -> str:
    """What to say of a file that was looked for and is not there."""
    keys = [
        k for k, path in _paths(config) if os.path.normpath(path) == os.path.normpath(file)
    ]
    where = "" if os.path.isabs(file) else (
        f", neither in the working directory ({os.getcwd()}) nor in a folder above the config"
    )  # fmt: skip
    return (
        f"asr_train_config: {config_file}: {keys[0] if keys else 'a file of its model'}: {file} "
        f"is not there{where}; run this in the folder of the training's recipe, or write the "
        f"file's whole path into {config_file}"
    )


def check_tokenizer(tokenizer) -> None:
    """Raise ConfigError where the file of a sentencepiece model is not there.

    ESPnet reads it only when the first tokens are to become text.
    """
    if isinstance(tokenizer, SentencepiecesTokenizer) and not os.path.isfile(tokenizer.model):
        raise ConfigError(
            f"bpemodel: {tokenizer.model} is not there; run this in the folder of the "
            "training's recipe, or write the file's whole path into config.yaml"
        )


def _candidates(path: str, config_file: Path | str) -> list[Path]:
    """The files of that name below the folders above a config, the nearest first."""
    # Its own place, and the one that a link leads to; of a path with .. the latter alone is right.
    own = Path(config_file).absolute()
    folders = [] if ".." in own.parts else list(own.parents)
    folders += own.resolve().parents
    return [f / path for f in dict.fromkeys(folders) if os.path.isfile(f / path)]


def _is_same(one: Path, other: Path) -> bool:
    return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)


def _changed(config: dict, replace: Callable[[str, str], str]) -> dict:
    """A copy of a config in which files are replaced, by a function of key and path."""

    def change(key: str, value):
        if isinstance(value, dict):
            return {
                k: v if k in OF_TRAINING else change(f"{key}: {k}", v)
                for k, v in value.items()
            }
        if isinstance(value, list):
            return [change(key, v) for v in value]
        return replace(key, value) if _can_be_path(value) else value

    out = copy.copy(config)
    for key in FILES:
        if isinstance(config.get(key), str):
            out[key] = replace(key, config[key])
    for key in (f"{part}_conf" for part in PARTS):
        if key in config:
            out[key] = change(key, config[key])
    return out


def _paths(config: dict) -> list[tuple[str, str]]:
    found = []

    def note(key: str, path: str) -> str:
        found.append((key, path))
        return path

    _changed(config, note)
    return found


def _can_be_path(value) -> bool:
    """False of words such as ``conv2d``, whatever file may have that name."""
    return isinstance(value, str) and bool(os.sep in value or Path(value).suffix)
