"""One size of a trained supernet as a model of its own.

The extracted model is an ordinary ESPnet model (``model: espnet``) whose encoder
has only the kept layers, under their names in the supernet. It decodes,
fine-tunes and packs with ESPnet's commands through ``python3 -m espnet_des``.
"""

import logging
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import torch
import yaml

from espnet_des.batchnorm import read_batches, recalibrate
from espnet_des.encoder_keys import check_values
from espnet_des.files import write_atomically
from espnet_des.layered import LayeredConformerEncoder
from espnet_des.layers import ATTRIBUTES, ORDERS, Layer, modules
from espnet_des.loading import load_model, read_config
from espnet_des.model import DESModel
from espnet_des.options import ConfigError, SelectionOptions
from espnet_des.signature import merge_signature
from espnet_des.waveforms import sampling_rate

ENCODER = "des_conformer_subnet"


@merge_signature(LayeredConformerEncoder)
class SubnetConformerEncoder(LayeredConformerEncoder):
    """A Conformer encoder of one size, trained and used with ``model: espnet``.

    What is extracted from a supernet, and the encoder of a fair baseline: with
    all its layers it is a supernet's encoder (``input_layer: vgg``,
    ``conv_norm``, ``layer_order``) that has this size from the start.

    Args:
        input_size: number of features.
        kept_layers: their numbers in the full encoder, 0-based, ascending;
            None for all.
        num_blocks: blocks of the full encoder; one without a layer is its
            final norm.
        **conformer: see :class:`LayeredConformerEncoder`.
    """

    def __init__(
        self,
        input_size: int,
        *,
        kept_layers: Optional[Sequence[int]] = None,
        num_blocks: int = 6,
        layer_order: str = "espnet",
        **conformer,
    ):
        rates = conformer.pop("stochastic_depth_rate", 0.0)
        check_values({"num_blocks": num_blocks, "stochastic_depth_rate": rates})
        exits = list(conformer.pop("interctc_layer_idx", None) or [])
        if any(type(n) is not int or not 0 < n < num_blocks for n in exits):
            raise ConfigError(
                f"encoder_conf: interctc_layer_idx: {exits!r} must hold numbers of blocks "
                f"from 1 to {num_blocks - 1}"
            )
        one_block = {"num_blocks": 1, "layer_order": layer_order, **conformer}
        # Block by block: the full encoder is never allocated.
        super().__init__(input_size, **one_block)
        blocks = [self.encoders[0]]
        per_block = self.num_layers
        full = [Layer(b, layer.kind) for b in range(num_blocks) for layer in self.layers]
        everything = list(range(len(full)))
        kept = everything if kept_layers is None else check_kept(kept_layers, len(full))
        for number in range(num_blocks):
            if number:
                blocks.append(LayeredConformerEncoder(input_size, **one_block).encoders[0])
            rate = rates[number] if isinstance(rates, (list, tuple)) else rates
            blocks[number].stochastic_depth_rate = rate
            for q in range(number * per_block, (number + 1) * per_block):
                if q not in kept:
                    remove_layer(blocks[number], full[q].kind)
        self.encoders = type(self.encoders)(*blocks)
        self.interctc_layer_idx = exits
        self.set_layers(layer_order)

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict,
                              missing_keys, unexpected_keys, error_msgs):  # fmt: skip
        # ESPnet's inference loads with strict=False: what is missing would
        # silently stay random, what is too much silently be left out.
        own = {prefix + key for key in self.state_dict()}
        given = {key for key in state_dict if key.startswith(prefix)}
        for problem, keys in (("lacks", own - given), ("has besides", given - own)):
            if keys:
                error_msgs.append(
                    f"the checkpoint {problem} {len(keys)} of the encoder's weights "
                    f"({', '.join(sorted(keys)[:3])}...); use the config.yaml beside it"
                )
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def check_kept(kept: Sequence[int], num_layers: int) -> List[int]:
    """Return the numbers of the kept layers, or say why they cannot be."""
    if (
        not isinstance(kept, (list, tuple))
        or any(type(q) is not int or not 0 <= q < num_layers for q in kept)
        or sorted(set(kept)) != list(kept)
    ):
        raise ConfigError(
            f"encoder_conf: kept_layers: {kept!r} must be ascending numbers "
            f"from 0 to {num_layers - 1}"
        )
    return list(kept)


def remove_layer(block: torch.nn.Module, kind: str) -> None:
    """Take a layer and its pre-norm out of a block."""
    gone = modules(block, kind)
    for name, child in list(block.named_children()):
        if any(child is module for module in gone):
            setattr(block, name, None)
    assert kind in ORDERS["espnet"] and getattr(block, ATTRIBUTES[kind]) is None


def subnet_config(config: Dict, model: DESModel, size: int) -> Dict:
    """``config.yaml`` of one size, from that of the supernet."""
    own = SelectionOptions.keys()
    encoder_conf = {k: v for k, v in config["encoder_conf"].items() if k != "sizes"}
    return config | {
        "encoder": ENCODER,
        "encoder_conf": encoder_conf | {"kept_layers": model.encoder.kept_layers(size)},
        "model": "espnet",
        "model_conf": {k: v for k, v in config["model_conf"].items() if k not in own},
        # The parameters come from the extracted file, not from these.
        "init_param": [],
    }


def subnet_state(model: DESModel, size: int) -> Dict[str, torch.Tensor]:
    """The parameters and buffers that one size needs, under stock names."""
    encoder, head = model.encoder, f"ctc.ctc_lo.heads.size{size}."
    absent = set(range(encoder.num_layers)) - set(encoder.kept_layers(size))
    gone = {
        id(value)
        for q in absent
        for module in modules(encoder.encoders[encoder.layers[q].block], encoder.layers[q].kind)
        for value in module.state_dict(keep_vars=True).values()
    }
    state = {}
    for key, value in model.state_dict(keep_vars=True).items():
        own = key.startswith(("encoder.scores", "encoder.selection.", "ctc.ctc_lo.heads."))
        if not own and id(value) not in gone:
            state[key] = value.detach()
    for key, value in model.state_dict().items():
        if key.startswith(head):
            state["ctc.ctc_lo." + key.removeprefix(head)] = value
    return state


def extract_subnet(
    asr_train_config: Path,
    asr_model_file: Path,
    size: int,
    output_dir: Path,
    name: Optional[str] = None,
    recalibrate_scp: Optional[Path] = None,
) -> Path:
    """Write one size of a trained supernet: ``config.yaml`` and a model file.

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
    if Path(output_dir).resolve() in taken or (Path(output_dir) / "checkpoint.pth").exists():
        raise ConfigError(
            f"output_dir: {output_dir} is the folder of a training, whose config.yaml would be "
            f"overwritten; give the size one of its own, such as {taken[0]}_size{size}"
        )
    if config.get("encoder") != "des_conformer":
        raise ConfigError(
            f"{asr_train_config}: encoder: {config.get('encoder')!r} is no supernet; "
            "give the config.yaml of a training with encoder: des_conformer"
        )
    model, train_args = load_model(asr_train_config, asr_model_file)
    model.set_size(size)
    if not model.state.is_frozen:
        raise ConfigError(
            f"{asr_model_file} is of stage 1, in which the layers of size {size} are "
            "not chosen yet; use a file of a stage-2 epoch (valid.*.ave.pth is one)"
        )
    if recalibrate_scp is not None:
        frames = recalibrate(model, read_batches(recalibrate_scp, sampling_rate(train_args)))
        logging.info(f"BatchNorm statistics of size {size} are of {frames} frames")
    output_dir.mkdir(parents=True, exist_ok=True)
    target = output_dir / (name or Path(asr_model_file).name)
    write_atomically(target, lambda path: torch.save(subnet_state(model, size), path))
    text = yaml.safe_dump(subnet_config(config, model, size), sort_keys=False, indent=4)
    write_atomically(output_dir / "config.yaml", lambda path: path.write_text(text, "utf-8"))
    load_model(output_dir / "config.yaml", target)  # refuses what does not fit
    logging.info(f"Size {size} of {asr_model_file} is in {output_dir}")
    return target
