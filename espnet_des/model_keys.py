"""Arguments of ``model: des`` that ESPnet's model would take, and this one cannot."""

from typing import Any, Mapping

from espnet2.asr.decoder.linear_decoder import LinearDecoder
from espnet_des.encoder import DESConformerEncoder
from espnet_des.options import ConfigError, is_number


def check_arguments(values: Mapping[str, Any]) -> None:
    """Refuse what no supernet can be trained with.

    Args:
        values: what ESPnet's ASR task builds the model of: modules, and ``model_conf``.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """
    if not isinstance(values["encoder"], DESConformerEncoder):
        raise ConfigError("model: des needs encoder: des_conformer")
    if values.get("joint_network") is not None:
        raise ConfigError("model: des has no transducer: leave out decoder: transducer")
    if isinstance(values.get("decoder"), LinearDecoder):
        raise ConfigError("model: des has no classifier: leave out decoder: linear")
    weight = values.get("ctc_weight", 0.5)
    if not is_number(weight) or not 0.0 < weight <= 1.0:
        raise ConfigError(
            f"model_conf: ctc_weight: {weight!r} must be above 0 and at most 1 (1.0: CTC "
            "only); the sizes have CTC output layers"
        )
    if weight < 1.0 and values.get("decoder") is None:
        raise ConfigError(
            f"model_conf: ctc_weight: {weight!r} leaves a part of the loss to a decoder, "
            "and there is none: set it to 1.0 (CTC only), or give decoder: transformer"
        )
    for key in ("interctc_weight", "aux_ctc"):
        if values.get(key):
            raise ConfigError(
                f"model_conf: {key}: {values[key]!r} cannot be used with model: des; "
                "every size has a CTC loss of its own"
            )
    normalize = values.get("normalize")
    for name, value in normalize.named_buffers() if normalize is not None else ():
        if not value.isfinite().all():
            raise ConfigError(
                f"normalize_conf: the {name} of {normalize} is NaN or infinite: audio that "
                "is no number was in the statistics; leave it out and collect them again"
            )
