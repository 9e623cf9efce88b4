"""What every size of a loaded supernet costs, as far as that can be counted."""

import torch

from espnet_des.errors import ConfigError
from espnet_des.nn.layered import num_parameters
from espnet_des.nn.macs import count_macs_of_layers
from espnet_des.nn.model import DESModel

# Of the audio for which MACs are counted: attention costs more per second in longer audio.
SECONDS = 10.0


def macs_of_sizes(model: DESModel, rate: int, seconds: float = SECONDS) -> dict[int, int]:
    """MACs per second of audio of every size, ascending; see :func:`count_macs`.

    Args:
        model: a supernet that takes waveforms.
        rate: its samples per second.
        seconds: length of the audio.

    Raises:
        ConfigError: where it has no CTC output layer.
    """
    if model.ctc is None:
        raise ConfigError(
            "macs: they are counted with the CTC output layer, which model_conf: ctc_weight: "
            "0.0 leaves out; give a budget of params"
        )
    of_model = next(model.parameters())
    speech = torch.zeros(1, int(seconds * rate)).to(of_model)
    macs, encoder = count_macs_of_layers(model, speech), model.encoder
    parts = {
        size: encoder.parts_of(set(encoder.kept_units(size))) for size in encoder.all_sizes
    }
    return {size: round(macs.of(own) / seconds) for size, own in parts.items()}


def parameters_of_sizes(model: DESModel) -> dict[int, int]:
    """All parameters of the model that is extracted at every size, ascending; no buffers."""
    encoder = model.encoder
    # Of several output layers a size has one; scores, and what sizes add, are the supernet's alone.
    others = [] if model.ctc is None else [model.ctc.ctc_lo.heads]
    others += [] if encoder.own is None else [encoder.own]
    rest = num_parameters(model) - encoder.scores.numel()
    rest -= num_parameters(encoder.encoders, *others)
    return {
        size: rest + num_parameters(encoder.blocks_of_size(size)) for size in encoder.all_sizes
    }
