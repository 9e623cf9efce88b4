"""One size of a trained supernet as a model of its own.

The extracted model is an ordinary ESPnet model (``model: espnet``) whose encoder
has only the kept layers, under their names in the supernet. It decodes,
fine-tunes and packs with ESPnet's commands through ``python3 -m espnet_des``.
"""

import logging
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from espnet_des.deploy.recalibrate import read_batches, recalibrate
from espnet_des.errors import ConfigError
from espnet_des.espnet_api import CHECKPOINT
from espnet_des.inference.loading import load_model, read_config
from espnet_des.inference.named_files import with_files_for
from espnet_des.method.options import SelectionOptions
from espnet_des.method.sizes import KEYS_OF_SIZES
from espnet_des.nn.batch_norm import state_of_current
from espnet_des.nn.encoders import SUPERNETS
from espnet_des.nn.model import DESModel
from espnet_des.nn.waveforms import sampling_rate
from espnet_des.utils.files import write_atomically


def subnet_config(config: dict, model: DESModel, size: int) -> dict:
    """``config.yaml`` of one size, from that of the supernet."""
    return config_with(config, model, model.encoder.kept_units(size))


def config_with(config: dict, model: DESModel, kept: list[int]) -> dict:
    """``config.yaml`` of a model with these units (0-based, ascending) of the supernet."""
    own = SelectionOptions.keys()
    encoder_conf = {k: v for k, v in config["encoder_conf"].items() if k not in KEYS_OF_SIZES}
    return config | {
        "encoder": f"{config['encoder']}_subnet",
        "encoder_conf": encoder_conf | model.encoder.described(kept),
        "model": "espnet",
        "model_conf": {k: v for k, v in config["model_conf"].items() if k not in own},
        # The parameters come from the extracted file, not from these.
        "init_param": [],
    }


def subnet_state(model: DESModel, size: int) -> dict[str, torch.Tensor]:
    """The parameters and buffers that one size needs, under stock names."""
    return state_with(model, model.encoder.kept_units(size), size)


def state_with(model: DESModel, kept: list[int], size: int) -> dict[str, torch.Tensor]:
    """The parameters and buffers of some units, and all else that a model needs.

    Args:
        kept: numbers of the units, 0-based.
        size: whose output layer, own weights and BatchNorm statistics it has.
    """
    blocks, head = "encoder.encoders.", "ctc.ctc_lo."
    supernet = ("scores", "selection.", "own.")
    others = (*(f"encoder.{name}" for name in supernet), f"{head}heads.", blocks)
    whole = model.state_dict()
    state = {key: value for key, value in whole.items() if not key.startswith(others)}
    model.encoder.use_statistics_of(size)
    of_blocks = state_of_current(model.encoder.blocks_with(kept, size), blocks)
    state |= {key: value.detach() for key, value in of_blocks.items()}
    if model.ctc is not None:
        layer = model.ctc.ctc_lo.of_size(size)
        state |= {head + name: getattr(layer, name).detach() for name in ("weight", "bias")}
    return state


def save_state(state: dict[str, torch.Tensor], file: IO[bytes]) -> None:
    """Write what a model file holds: as many bytes, whatever the file is called.

    Given a path, torch writes the file's name into it, beside every tensor.
    """
    torch.save(state, file)


def write_state(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a model file, whole or not at all."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            save_state(state, file)

    write_atomically(path, write)


class _Counter:
    """A file that keeps nothing but the number of its bytes."""

    def __init__(self):
        self.num_bytes = 0

    def write(self, data) -> int:
        count = memoryview(data).nbytes
        self.num_bytes += count
        return count

    def flush(self) -> None:
        pass


def file_size(model: DESModel, size: int) -> int:
    """Bytes of the model file that :func:`extract_subnet` writes of a size."""
    counter: Any = _Counter()
    save_state(subnet_state(model, size), counter)
    return counter.num_bytes


def extract_subnet(
    asr_train_config: Path,
    asr_model_file: Path,
    size: int,
    output_dir: Path,
    name: str | None = None,
    recalibrate_scp: Path | None = None,
) -> Path:
    """Write one size of a trained supernet: ``config.yaml`` and a model file.

    Paths in the config stay as they are where they can be told from ``output_dir``, which they
    can in the same recipe; else they become whole.

    Args:
        asr_train_config: ``config.yaml`` of the supernet.
        asr_model_file: its parameters, of stage 2.
        size: one of its sizes.
        output_dir: where the two files go.
        name: of the model file; as that of the supernet by default.
        recalibrate_scp: audio to estimate BatchNorm's statistics of this size
            with, ``utt path`` lines or what else :func:`find_audio` takes.

    Returns:
        Path of the model file.

    Raises:
        ConfigError: where the config is no supernet's, the size is not one of
            its sizes, its layers are not chosen yet, or the folder is a training's.
    """
    config = read_config(asr_train_config)
    taken = [path.resolve().parent for path in (Path(asr_train_config), Path(asr_model_file))]
    if Path(output_dir).resolve() in taken or (Path(output_dir) / CHECKPOINT).exists():
        raise ConfigError(
            f"output_dir: {output_dir} is the folder of a training, whose config.yaml would be "
            f"overwritten; give the size one of its own, such as {taken[0]}_size{size}"
        )
    if config.get("encoder") not in SUPERNETS:
        raise ConfigError(
            f"{asr_train_config}: encoder: {config.get('encoder')!r} is no supernet; "
            f"give the config.yaml of a training with one of {list(SUPERNETS)}"
        )
    model, train_args = load_model(asr_train_config, asr_model_file)
    model.set_size(size)
    if not model.state.is_frozen:
        raise ConfigError(
            f"{asr_model_file} is of stage 1, in which the layers of size {size} are "
            "not chosen yet; use a file of a stage-2 epoch (valid.*.ave.pth is one)"
        )
    if recalibrate_scp is not None:
        rate = sampling_rate(train_args)
        frames = recalibrate(model, read_batches(recalibrate_scp, model, rate))
        logging.info(f"BatchNorm statistics of size {size} are of {frames} frames")
    output_dir.mkdir(parents=True, exist_ok=True)
    target = output_dir / (name or Path(asr_model_file).name)
    write_state(subnet_state(model, size), target)
    own = with_files_for(subnet_config(config, model, size), asr_train_config, output_dir)
    text = yaml.safe_dump(own, sort_keys=False, indent=4)
    write_atomically(output_dir / "config.yaml", lambda path: path.write_text(text, "utf-8"))
    load_model(output_dir / "config.yaml", target)  # refuses what does not fit
    logging.info(f"Size {size} of {asr_model_file} is in {output_dir}")
    return target
