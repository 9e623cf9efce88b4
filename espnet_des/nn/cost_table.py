"""A table of what single layers cost on a machine, as a file, and what it predicts.

``python3 -m espnet_des.bin.cost_table`` writes it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet2.legacy.nets.pytorch_backend.transformer.attention import MultiHeadedAttention
from espnet_des.errors import ConfigError, is_number
from espnet_des.nn.encoder import SupernetEncoder
from espnet_des.nn.encoders import SUPERNETS
from espnet_des.nn.layered import num_parameters
from espnet_des.nn.model import DESModel

WRITE = "python3 -m espnet_des.bin.cost_table"


class CostTable(NamedTuple):
    """Milliseconds by parts of a model.

    Attributes:
        path: of the file.
        seconds: length of the audio.
        model: of which models it tells, see :func:`about_model`.
        rest: milliseconds of all but the layers.
        layers: milliseconds of a layer, by its kind.
        shared: of these, what a layer of several components takes with any of them.
        runtime: ``pytorch``, ``onnx`` or ``onnx-int8``.
    """

    path: Path
    seconds: float
    model: dict[str, Any]
    rest: float
    layers: dict[str, float]
    shared: dict[str, float]
    runtime: str

    def milliseconds(self, encoder: SupernetEncoder, kept: Sequence[int]) -> float:
        """What a model with these units of the supernet takes for the audio.

        Args:
            kept: their numbers, 0-based.
        """
        total = self.rest
        for q, components in encoder.parts_of(set(kept)).items():
            kind = encoder.layers[q].kind
            shared = self.shared.get(kind, 0.0)
            share = len(components) / len(encoder.units_of[q])
            total += shared + share * (self.layers[kind] - shared)
        return total

    def check_runtime(self, runtime: str) -> None:
        """Refuse times of another runtime than the model will run in.

        Raises:
            ConfigError: says how to measure that one.
        """
        if self.runtime != runtime:
            raise ConfigError(
                f"cost_table: {self.path} has the times of runtime {self.runtime}, and the model "
                f"is for {runtime}: make one of that ({WRITE} --runtime {runtime})"
            )

    def check_model(self, model: DESModel) -> None:
        """Refuse a model whose parts are others than those that were timed.

        Raises:
            ConfigError: says what is different.
        """
        for key, own in about_model(model).items():
            if self.model.get(key) != own:
                raise ConfigError(
                    f"cost_table: {self.path} is of another model: its {key} is "
                    f"{self.model.get(key)!r}, but that of this model is {own!r}; make one of "
                    f"this model ({WRITE})"
                )


def about_model(model: DESModel) -> dict[str, Any]:
    """What the time of a supernet's parts depends on."""
    encoder = model.encoder
    kinds = [layer.kind for layer in encoder.layers]
    counts = dict(zip(kinds, encoder.parameters_of_layers()))
    return {
        "encoder": next(name for name, own in SUPERNETS.items() if type(encoder) is own),
        "output_size": encoder.output_size(),
        "num_blocks": len(encoder.encoders),
        "front_end": type(encoder.embed).__name__,
        # They tell its width, and by how much it shortens.
        "parameters_of_front_end": num_parameters(encoder.embed),
        # Samples from frame to frame.
        "hop_length": getattr(model.frontend, "hop_length", None),
        "vocabulary": model.vocab_size,
        "parameters_of_layers": counts,
        "components": dict(Counter(unit.kind for unit in encoder.units)),
        "attention_heads": sorted(
            {m.h for m in encoder.modules() if isinstance(m, MultiHeadedAttention)}
        ),
    }


def read_cost_table(path: Path | str) -> CostTable:
    """Read a file that ``espnet_des.bin.cost_table`` wrote.

    Raises:
        ConfigError: where it is none.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        about, model, times = (content[key] for key in ("about", "model", "milliseconds"))
        table = CostTable(
            Path(path),
            about["seconds"],
            model,
            times["rest"],
            times["layers"],
            times.get("shared", {}),
            about["runtime"],
        )
        numbers = [table.seconds, table.rest, *table.layers.values(), *table.shared.values()]
        if table.layers.keys() != model["parameters_of_layers"].keys():
            raise ValueError("milliseconds: layers: has not the kinds of model")
        if not all(is_number(n) and 0 <= n < float("inf") for n in numbers):
            raise ValueError(f"its numbers must be finite and not negative, and are {numbers}")
        if not table.seconds:
            raise ValueError("about: seconds: 0 must be above 0")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"cost_table: {path} is no table of costs ({type(error).__name__}: {error}); give "
            f"a file that {WRITE} wrote"
        ) from error
    return table
