"""Modules and values of ``model_conf`` that no supernet can be trained with."""

import math
from collections.abc import Mapping
from typing import Any

from espnet2.asr.decoder.linear_decoder import LinearDecoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.errors import ConfigError, is_number
from espnet_des.nn.encoder import SupernetEncoder


def check_arguments(values: Mapping[str, Any]) -> None:
    """Refuse what no supernet can be trained with.

    Args:
        values: what ESPnet's ASR task builds the model of: modules, and ``model_conf``.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """
    if not isinstance(values["encoder"], SupernetEncoder):
        raise ConfigError(
            "model: des needs a supernet encoder, such as encoder: des_conformer"
        )
    if isinstance(values.get("decoder"), LinearDecoder):
        raise ConfigError("model: des has no classifier: leave out decoder: linear")
    weight = values.get("ctc_weight", 0.5)
    if not is_number(weight) or not 0.0 <= weight <= 1.0:
        raise ConfigError(
            f"model_conf: ctc_weight: {weight!r} must be from 0 (no CTC) to 1 (without a "
            "transducer: CTC only)"
        )
    if weight < 1.0 and values.get("decoder") is None:
        raise ConfigError(
            f"model_conf: ctc_weight: {weight!r} leaves a part of the loss to a decoder, "
            "and there is none: set it to 1.0 (CTC only), or give decoder: transformer or "
            "transducer"
        )
    check_exits(values, weight)
    check_multi_blank(values, values.get("joint_network") is not None)
    normalize = values.get("normalize")
    for name, value in normalize.named_buffers() if normalize is not None else ():
        if not value.isfinite().all():
            raise ConfigError(
                f"normalize_conf: the {name} of {normalize} is NaN or infinite: audio that "
                "is no number was in the statistics; leave it out and collect them again"
            )


def check_own_losses(own: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse losses that such a model has nothing for.

    Args:
        own: the keys of ``model_conf`` that are not ESPnet's, as they are given.
        values: as for :func:`check_arguments`.
    """
    without_ctc = values.get("ctc_weight", 0.5) == 0.0
    postencoder = values.get("postencoder")
    exits, interctc = own.get("exit_weight"), values.get("interctc_weight")
    if exits and without_ctc:
        raise ConfigError(
            f"model_conf: exit_weight: {exits!r} is a part of the CTC loss, and "
            "ctc_weight: 0.0 leaves none: leave one of them out"
        )
    if exits and postencoder is not None:
        raise ConfigError(
            f"model_conf: exit_weight: {exits!r} is of exits before the postencoder "
            f"({type(postencoder).__name__}), which the output layer comes after: leave one of "
            "them out"
        )
    if exits and interctc:
        raise ConfigError(
            f"model_conf: exit_weight: {exits!r} and interctc_weight: {interctc!r} are two "
            "ways to give the full size exits: leave one of them out"
        )
    weight = own.get("distillation_weight")
    if weight and without_ctc and values.get("joint_network") is not None:
        raise ConfigError(
            f"model_conf: distillation_weight: {weight!r} is of the posteriors of CTC or of an "
            "attention decoder, and a transducer with ctc_weight: 0.0 has neither: leave it "
            "out, or give ctc_weight, such as 0.3"
        )


def can_have_exits(model: ESPnetASRModel) -> bool:
    """Whether the full size's output layer can read what its blocks give."""
    return model.ctc is not None and model.postencoder is None


def check_exits(values: Mapping[str, Any], ctc_weight: float) -> None:
    """Refuse losses of exits that the encoder has not, or that nothing would be added to.

    Args:
        values: as for :func:`check_arguments`.
        ctc_weight: of them.
    """
    exits, weight = (
        list(values["encoder"].interctc_layer_idx),
        values.get("interctc_weight", 0),
    )
    if not is_number(weight) or not 0.0 <= weight < 1.0:
        raise ConfigError(
            f"model_conf: interctc_weight: {weight!r} must be at least 0 and below 1: so much "
            "of the full size's CTC loss is that of its exits"
        )
    if weight and not exits:
        raise ConfigError(
            f"model_conf: interctc_weight: {weight!r} is of exits, and the encoder has none: "
            "give encoder_conf: interctc_layer_idx, such as [6] (blocks, from 1), or leave it out"
        )
    if weight and ctc_weight == 0.0:
        raise ConfigError(
            f"model_conf: interctc_weight: {weight!r} is a part of the CTC loss, and "
            "ctc_weight: 0.0 leaves none: leave one of them out"
        )
    labels = values.get("aux_ctc") or {}
    numbers = [str(number) for number in exits] if weight else []
    if not isinstance(labels, dict) or not set(labels) <= set(numbers):
        raise ConfigError(
            f"model_conf: aux_ctc: {labels!r} must name data by exits with a loss, which are "
            f"{numbers} here (encoder_conf: interctc_layer_idx, with model_conf: interctc_weight)"
        )


def check_multi_blank(values: Mapping[str, Any], is_transducer: bool) -> None:
    """Refuse big blanks that ESPnet cannot train, or would measure wrongly.

    Args:
        values: ``model_conf``.
        is_transducer: whether the model is one.
    """
    key = "transducer_multi_blank_durations"
    durations = values.get(key) or []
    if durations and not is_transducer:
        raise ConfigError(
            f"model_conf: {key}: {durations!r} is of transducers: give decoder: transducer, or "
            "leave it out"
        )
    is_list = isinstance(durations, list) and len(set(map(str, durations))) == len(durations)
    if not is_list or any(type(n) is not int or n < 2 for n in durations):
        raise ConfigError(
            f"model_conf: {key}: {durations!r} must be a list of different numbers of frames, "
            "each above 1, such as [2, 4, 8]"
        )
    sigma = values.get("transducer_multi_blank_sigma", 0.05)
    if not is_number(sigma) or not 0.0 <= sigma < math.inf:
        raise ConfigError(
            f"model_conf: transducer_multi_blank_sigma: {sigma!r} must be a number of at least "
            "0, such as 0.05"
        )
    asked = [k for k in ("report_cer", "report_wer") if durations and values.get(k, True)]
    if asked:
        raise ConfigError(
            f"model_conf: {asked[0]}: True cannot be told with {key}: {durations}: ESPnet "
            "measures it by a search that knows one blank only; set report_cer and report_wer "
            "to false, and decode with search_type: mbg"
        )
