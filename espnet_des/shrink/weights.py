"""The weights that a supernet takes over from a trained model."""

import torch

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.errors import ConfigError
from espnet_des.nn.batch_norm import BATCH_NORMS, of_full_size
from espnet_des.nn.model import DESModel

# What only a supernet has.
HEADS = "ctc.ctc_lo.heads."
OWN = (HEADS, "encoder.scores", "encoder.selection.", "encoder.own.")


def weights_of(original: ESPnetASRModel, supernet: DESModel) -> dict[str, torch.Tensor]:
    """Tensors of the supernet that have all that the original has learned.

    Scores and the state of the selection are not among them: a training starts with its own.
    Every size's output layer begins as the original's. Where the supernet has a layer norm in
    place of a BatchNorm, the statistics of the latter go into the convolution before it.

    Args:
        original: of the same encoder, decoder and tokens.
        supernet: a new one.

    Raises:
        ConfigError: where it has parts that the original has not, or lacks some.
    """
    state = original.state_dict()
    norms = dict(supernet.named_modules())
    for name, module in original.named_modules():
        if isinstance(module, BATCH_NORMS) and not isinstance(norms[name], BATCH_NORMS):
            block = name.removesuffix(".norm")
            _fold(state, f"{block}.depthwise_conv", name, module.eps)
    # BatchNorm's statistics of the sizes follow those of all when they are loaded.
    found = of_full_size(supernet.state_dict())
    lacking = [name for name in found if name not in state and not name.startswith(OWN)]
    for name in [name for name in state if name not in found] + lacking:
        raise ConfigError(
            f"the original and its supernet must have the same tensors, and {name} is in one of "
            "them only: leave the model's settings as the original's"
        )
    for name in found:
        if name.startswith(HEADS):
            state[name] = state["ctc.ctc_lo." + name.rsplit(".", 1)[1]]
    return state


def _fold(state: dict[str, torch.Tensor], conv: str, norm: str, eps: float) -> None:
    """Let a convolution do what BatchNorm did with its statistics, of each channel.

    What the layer norm then reads has mean 0 and variance 1 in each channel, over time. Over
    the channels of one frame, which it looks at, that is nearly so.
    """
    mean, std = (
        state.pop(f"{norm}.running_mean"),
        state.pop(f"{norm}.running_var").add(eps).sqrt(),
    )
    state.pop(f"{norm}.num_batches_tracked", None)
    weight, bias = state[f"{conv}.weight"], state[f"{conv}.bias"]
    state[f"{conv}.weight"] = weight / std[:, None, None]
    state[f"{conv}.bias"] = (bias - mean) / std
