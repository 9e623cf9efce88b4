"""``model: taught``: any of ESPnet's models, which a trained one teaches.

The teacher hears each batch whole and without SpecAugment; the model learns its posteriors
beside the labels. It is how a size is trained, or fine-tuned, by itself with a larger one as
its teacher.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

from typing import Any

import torch

from espnet2.asr.decoder.linear_decoder import LinearDecoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.errors import ConfigError, need
from espnet_des.espnet_api import without_exits
from espnet_des.nn.distillation import (
    Logits,
    as_teacher,
    attention_decoder,
    check_frames,
    distillation_loss,
    first_outputs,
    said_by,
)
from espnet_des.nn.losses import Targets
from espnet_des.utils.signature import merge_signature


@merge_signature(ESPnetASRModel)
class TaughtModel(ESPnetASRModel):
    """ESPnet's CTC, hybrid or transducer model with a trained teacher.

    Args:
        teacher_config: the ``config.yaml`` of the teacher.
        teacher_model_file: its parameters.
        distillation_weight: of the KL divergence of its posteriors from the model's, beside
            the loss of the labels.
        **kwargs: the arguments of ESPnetASRModel.
    """

    ctc: Any  # ESPnet's; None with ctc_weight: 0.0

    def __init__(
        self,
        *,
        teacher_config: str | None = None,
        teacher_model_file: str | None = None,
        distillation_weight: float = 0.3,
        **kwargs: Any,
    ):
        files = {"teacher_config": teacher_config, "teacher_model_file": teacher_model_file}
        for key, value in files.items():
            if not isinstance(value, str) or not value:
                raise ConfigError(
                    f"model_conf: {key}: {value!r} must be a file of the trained model that "
                    "teaches (model: taught)"
                )
        number = isinstance(distillation_weight, (int, float))
        number = number and not isinstance(distillation_weight, bool)
        need(
            number and 0.0 < distillation_weight < float("inf"),
            "model_conf: distillation_weight", distillation_weight, "a number above 0",
        )  # fmt: skip
        if isinstance(kwargs.get("decoder"), LinearDecoder):
            raise ConfigError("model: taught has no classifier: leave out decoder: linear")
        super().__init__(**kwargs)
        self.teacher_files = (str(teacher_config), str(teacher_model_file))
        self.distillation_weight = float(distillation_weight)
        # In a tuple: no part of this model, its state or its gradients.
        self._teacher: tuple[ESPnetASRModel, ...] = ()
        self._encoded: Any = None

    def learn_from(self, teacher: ESPnetASRModel) -> None:
        """Let a trained model on the same device teach."""
        self._teacher = (as_teacher(teacher),)

    def encode(self, *args, **kwargs):
        """As in ESPnet."""
        found = super().encode(*args, **kwargs)
        if self.training:  # for :meth:`forward`
            self._encoded = found
        return found

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """ESPnet's loss; in training with what the teacher teaches.

        Args:
            speech: ``(batch, samples, ...)``.
            speech_lengths: ``(batch,)``.
            text: token ids ``(batch, length)``.
            text_lengths: ``(batch,)``.

        Returns:
            Loss, statistics, number of utterances.

        Raises:
            RuntimeError: in training without a teacher.
        """
        decoder = attention_decoder(self)
        with first_outputs(decoder) as told:
            # A copy: ESPnet changes the lengths in place with lang_token_id.
            loss, stats, weight = super().forward(
                speech, speech_lengths, text, text_lengths.clone(), **kwargs
            )
        if not self.training:
            return loss, stats, weight
        (out, frames), self._encoded = self._encoded, None
        if not self._teacher:
            raise RuntimeError(
                "this model has no teacher yet: train it with espnet2.bin.asr_train through "
                "python3 -m espnet_des, which loads it"
            )
        text = text.masked_fill(text == -1, self.ignore_id)[:, : text_lengths.max()]
        targets = Targets(text, text_lengths, frames, text_lengths.cpu(), frames.cpu())
        said = said_by(self._teacher[0], speech, speech_lengths, targets)
        if said.frames is not None:
            check_frames(said.frames, frames)
        heard = Logits(
            None if self.ctc is None else self.ctc.ctc_lo(without_exits(out)),
            None if told[0] is None else told[0][0],
        )
        per_token = decoder is not None and self.criterion_att.normalize_length
        more = distillation_loss(said, heard, targets, self.ctc_weight, per_token)
        stats["loss_distillation"] = more.detach()[None]
        loss = loss + self.distillation_weight * more
        stats["loss"] = loss.detach()
        return loss, stats, weight
