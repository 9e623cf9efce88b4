"""The trained model that a supernet is made of, from its files or from a packed archive."""

import contextlib
import hashlib
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from espnet2.main_funcs.pack_funcs import Archiver, unpack
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model, read_config, tensors_of
from espnet_des.inference.named_files import with_found_files
from espnet_des.nn.encoders import BLOCK_TYPES, SUBNETS, SUPERNETS
from espnet_des.utils.files import write_atomically

ORIGINAL = "original"  # folder of an archive's content
# In it: of which archive it is, and where its config and model file are.
UNPACKED = "unpacked.json"


class Original(NamedTuple):
    """A trained ESPnet model.

    Attributes:
        config_file, model_file: of it.
        config: its content, with paths that can be found.
        model: the model, in evaluation mode.
    """

    config_file: Path
    model_file: Path
    config: dict
    model: Any


def read_original(config_file: Path, model_file: Path) -> Original:
    """Load a model that a supernet can be made of; its files are only read.

    Raises:
        ConfigError: where there is no supernet of its kind, or the file has not its tensors.
    """
    config = read_config(config_file)
    check_kind(config, config_file)
    model, _ = load_model(config_file, model_file)
    found = tensors_of(safe_torch_load(model_file, map_location="meta"))
    more = sorted(set(found) - set(model.state_dict()))
    if more:
        raise ConfigError(
            f"asr_model_file: {model_file} has {len(more)} tensors that the model of "
            f"{config_file} has not, such as {more[0]}: it is of another config.yaml"
        )
    return Original(
        Path(config_file),
        Path(model_file),
        with_found_files(config, config_file),
        model.eval(),
    )


def check_kind(config: dict, config_file: Path) -> None:
    """Refuse what has no supernet form.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """
    encoder, model = config["encoder"], config.get("model") or "espnet"
    if encoder in SUPERNETS:
        raise ConfigError(
            f"{config_file}: encoder: {encoder} is a supernet already: its sizes can be "
            "extracted with python3 -m espnet_des.bin.extract_subnet"
        )
    conf = config["encoder_conf"] or {}
    parts = conf.get("kept_layers") or conf.get("kept_components")
    whole = encoder in SUBNETS and not parts
    if encoder not in BLOCK_TYPES and not whole:
        kind = "is one size of a supernet" if encoder in SUBNETS else "has no supernet form"
        raise ConfigError(
            f"{config_file}: encoder: {encoder!r} {kind}; a model can be shrunk whose encoder is "
            f"one of {list(BLOCK_TYPES)}"
        )
    if model not in ("espnet", "taught"):
        raise ConfigError(
            f"{config_file}: model: {model!r} cannot be shrunk, only model: espnet (CTC, "
            "hybrid CTC/attention or transducer) and model: taught can"
        )


@contextlib.contextmanager
def files_of(
    output_dir: Path, config: Path | None, model: Path | None, archive: Path | None
) -> Iterator[tuple[Path, Path]]:
    """Config and model file of the original.

    An archive is unpacked into ``output_dir``; it is gone again where the block fails, unless
    it was there before.
    """
    is_pair = config is not None and model is not None
    if is_pair == (archive is not None) or (config is None) != (model is None):
        raise ConfigError(
            "asr_train_config: give it together with asr_model_file, or model_file alone, which "
            "is a model that ESPnet packed"
        )
    if config is not None and model is not None:
        yield config, model
        return
    assert archive is not None, "just checked"
    # The config names files by where they are, so they are put into their place at once.
    folder = output_dir / ORIGINAL
    made = [folder for folder in (output_dir, folder) if not folder.exists()]
    try:
        yield unpacked_before(archive, folder) or unpacked(archive, folder)
    except BaseException:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def unpacked_before(archive: Path, folder: Path) -> tuple[Path, Path] | None:
    """What :func:`unpacked` gave of the same archive; None where there is nothing yet.

    Raises:
        ConfigError: where another archive is there, which a supernet may have been made of.
    """
    if not folder.exists():
        return None
    # The last that is written: without it there is half of an archive.
    stamp = folder / UNPACKED
    before = json.loads(stamp.read_text("utf-8")) if stamp.exists() else {}
    if before.get("sha256") != digest(archive):
        raise ConfigError(
            f"output_dir: {folder} is of another model than {archive}: give another folder (in a "
            "recipe, another --asr_tag), or remove what was made there"
        )
    return folder / before["asr_train_config"], folder / before["asr_model_file"]


def digest(archive: Path) -> str:
    try:
        with Path(archive).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"model_file: {archive} cannot be read ({error})") from error


def unpacked(archive: Path, folder: Path) -> tuple[Path, Path]:
    """Unpack what ESPnet's ``pack`` has written.

    Args:
        archive: a zip or tar file.
        folder: where to, which is not there. Nothing stays there where this fails.

    Returns:
        Its config and its model file, in it.

    Raises:
        ConfigError: where it is none, or has names that lead out of the folder.
    """
    try:
        outside = [name for name in names_in(archive) if leads_out(name)]
    except (OSError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ConfigError(
            f"model_file: {archive} cannot be read as an archive ({error}); give a file that "
            "ESPnet's pack wrote, or --asr_train_config and --asr_model_file"
        ) from error
    if outside:
        raise ConfigError(
            f"model_file: {archive} holds {outside[0]!r}, which would be written outside of "
            f"{folder}: it is not unpacked"
        )
    try:
        found = unpack(archive, folder, use_cache=False)
        files = [Path(found[key]) for key in ("asr_train_config", "asr_model_file")]
    except Exception as error:  # of tarfile, zipfile, yaml and ESPnet
        shutil.rmtree(folder, ignore_errors=True)
        raise ConfigError(
            f"model_file: {archive} is not an ASR model that ESPnet packed "
            f"({type(error).__name__}: {error})"
        ) from error
    inside = [file.resolve().is_relative_to(folder.resolve()) for file in files]
    if not all(inside):
        shutil.rmtree(folder, ignore_errors=True)
        raise ConfigError(
            f"model_file: {archive} names {files[inside.index(False)]}, which is not in it"
        )
    names = {
        key: str(file.resolve().relative_to(folder.resolve()))
        for key, file in zip(("asr_train_config", "asr_model_file"), files)
    }
    text = json.dumps({"sha256": digest(archive)} | names, indent=4)
    write_atomically(folder / UNPACKED, lambda partial: partial.write_text(text, "utf-8"))
    return files[0], files[1]


def names_in(archive: Path) -> Iterator[str]:
    with Archiver(archive) as opened:
        for info in opened:
            yield opened.get_name_from_info(info)


def leads_out(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts
