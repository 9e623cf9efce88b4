"""Distillation: posteriors of the full size, or of a trained model, teach the sizes.

In place, the full size teaches the others. It runs first in every update anyway, so no pass is
added, and no teacher has to be trained before. Its posteriors are constants here: the full size
learns nothing from its pupils. A trained model, where there is one, teaches the full size, and both
of them the others; it costs an evaluation of it in every update.

Source: Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV
2019 (in-place distillation); it is not in the paper of the method.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from espnet2.asr.ctc import CTC
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet_des.errors import OtherTrainingError
from espnet_des.espnet_api import attention_loss, without_exits
from espnet_des.method.options import SelectionOptions
from espnet_des.nn.losses import Outputs, Targets, losses_of_pass


def has_posteriors(model: ESPnetASRModel) -> bool:
    """Whether there is something to teach with: not in a transducer without CTC."""
    return model.ctc is not None or attention_decoder(model) is not None


def teaches(teacher: ESPnetASRModel, pupil: ESPnetASRModel) -> bool:
    """Whether both have CTC, or both an attention decoder."""
    return any(
        part(teacher) is not None and part(pupil) is not None
        for part in (lambda model: model.ctc, attention_decoder)
    )


def as_teacher(model: ESPnetASRModel) -> ESPnetASRModel:
    """The model, which from now on evaluates, learns nothing and counts no errors."""
    without_error_rates(model)
    return model.eval().requires_grad_(False)


def without_error_rates(model: ESPnetASRModel) -> None:
    """Let a model that evaluates give losses only; those of a transducer take a beam search."""
    for name in ("error_calculator", "error_calculator_trans"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)


def attention_decoder(model: ESPnetASRModel) -> torch.nn.Module | None:
    """The decoder that says tokens one by one; None in a transducer, and with CTC alone."""
    return None if model.use_transducer_decoder else model.decoder


def with_distillation(options: SelectionOptions, model: ESPnetASRModel) -> SelectionOptions:
    """These settings, with the default where there are posteriors to learn from."""
    if options.distillation_weight is not None:
        return options
    weight = options.DEFAULT_DISTILLATION if has_posteriors(model) else 0.0
    return dataclasses.replace(options, distillation_weight=weight)


class Logits(NamedTuple):
    """What a pass says, before the softmax.

    Attributes:
        ctc: ``(batch, time, vocab)``; None of a model without CTC.
        decoder: of the decoder with attention, told the right tokens before,
            ``(batch, length + 1, vocab)``; None without one.
        frames: lengths of the former, ``(batch,)``; None where they are those of the pupil.
    """

    ctc: torch.Tensor | None = None
    decoder: torch.Tensor | None = None
    frames: torch.Tensor | None = None

    def mean_with(self, other: "Logits") -> "Logits":
        """Logits of the mean of both posteriors; of what one does not say, the other's."""
        return Logits(*map(_mean, self[:2], other[:2]))

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Logits":
        """Each part that there is, changed."""
        return Logits(*(None if part is None else change(part) for part in self))


def _mean(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """Logits whose softmax is the mean of theirs, of the same shape."""
    if one is None or other is None:
        return other if one is None else one
    return torch.logaddexp(_log_posteriors(one), _log_posteriors(other))


def _log_posteriors(logits: torch.Tensor) -> torch.Tensor:
    """In float32 at least: autocast's half precision is too coarse for logarithms."""
    return logits.log_softmax(-1, torch.promote_types(logits.dtype, torch.float32))


class Distillation:
    """Of one update: what the teachers have said, and the losses of those that learn from it.

    Args:
        weight: of the distillation in each loss.
        teacher: what a trained model says of the batch; None where the full size alone teaches.

    Attributes:
        of_smaller: what teaches the smaller sizes; None until the full size has spoken.
    """

    def __init__(self, weight: float, teacher: Logits | None = None):
        self.weight, self.teacher = weight, teacher
        self.of_smaller: Logits | None = None

    def losses_of_pass(
        self,
        model: Any,
        ctc: CTC | None,
        outputs: Outputs,
        targets: Targets,
        rows: torch.Tensor | None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """As the function of this name, with what the teachers teach.

        The first call is the full size's, which from then on teaches, too.

        Args:
            targets: of the utterances of this pass.
            rows: their numbers in the batch; None for all.
        """
        loss, stats, said = _heard(model, ctc, outputs, targets)
        teacher = self.of_smaller
        if teacher is None:
            of_full = said.changed(torch.Tensor.detach)
            if self.teacher is None:
                self.of_smaller = of_full
                return loss, stats
            teacher = self.teacher
            if teacher.frames is not None:
                check_frames(teacher.frames, targets.frames)
            self.of_smaller = teacher.mean_with(of_full)
        if rows is not None:
            teacher = teacher.changed(lambda part: part[rows])
        per_token = not model.use_transducer_decoder and model.criterion_att.normalize_length
        more = distillation_loss(teacher, said, targets, model.ctc_weight, per_token)
        stats["loss_distillation"] = more.detach()
        return loss + self.weight * more, stats


def _heard(
    model: Any, ctc: CTC | None, outputs: Outputs, targets: Targets
) -> tuple[torch.Tensor, dict[str, Any], Logits]:
    """What :func:`losses_of_pass` gives, and what the model says in it."""
    decoder = attention_decoder(model)
    ctc_lo = None if ctc is None else ctc.ctc_lo
    with first_outputs(ctc_lo, decoder) as outs:
        loss, stats = losses_of_pass(model, ctc, outputs, targets)
    return loss, stats, Logits(outs[0], None if outs[1] is None else outs[1][0])


@torch.no_grad()
def said_by(
    teacher: ESPnetASRModel,
    speech: torch.Tensor,
    speech_lengths: torch.Tensor,
    targets: Targets,
) -> Logits:
    """What a trained model says of a batch, which it hears whole and without SpecAugment.

    Args:
        teacher: in evaluation mode; its encoder gives as many frames as the pupil's.
        speech: ``(batch, samples, ...)``.
        speech_lengths: ``(batch,)``.
        targets: of the batch.

    Returns:
        Nothing of a batch in which every utterance is too short for a frame.
    """
    try:
        encoded, lengths = teacher.encode(speech, speech_lengths)
    except TooShortUttError:  # the pupil learns nothing from its labels either
        return Logits()
    out = without_exits(encoded)
    ctc = None if teacher.ctc is None else teacher.ctc.ctc_lo(out)
    decoder = attention_decoder(teacher)
    if decoder is None:
        return Logits(ctc, None, lengths)
    with first_outputs(decoder) as outs:
        attention_loss(teacher, out, lengths, targets.text, targets.text_lengths)
    return Logits(ctc, outs[0][0], lengths)


def check_frames(of_teacher: torch.Tensor, of_pupil: torch.Tensor) -> None:
    """Refuse a teacher whose frames ``(batch,)`` are not those of the pupil.

    Raises:
        OtherTrainingError: with an example.
    """
    of_pupil = of_pupil.to(of_teacher.device)
    wrong = (of_teacher != of_pupil).nonzero().flatten().tolist()
    if wrong:
        one, other = int(of_teacher[wrong[0]]), int(of_pupil[wrong[0]])
        raise OtherTrainingError(
            "model_conf: teacher_model_file: the teacher gives other numbers of frames than "
            f"the encoder, such as {one} and {other}: both need the same frontend_conf, "
            "input_layer and factors of subsampling and upsampling"
        )


@contextlib.contextmanager
def first_outputs(*modules: torch.nn.Module | None) -> Iterator[list]:
    """A list of what each of the modules gives in its first call; None without one."""
    found: list = [None] * len(modules)

    def keep(number: int, output) -> None:
        if found[number] is None:
            found[number] = output

    with contextlib.ExitStack() as stack:
        for i, module in enumerate(modules):
            if module is not None:
                hook = module.register_forward_hook(lambda _, __, out, i=i: keep(i, out))
                stack.callback(hook.remove)
        yield found


def distillation_loss(
    teacher: Logits,
    pupil: Logits,
    targets: Targets,
    ctc_weight: float,
    per_token: bool = False,
) -> torch.Tensor:
    """KL(teacher || pupil), summed over frames or tokens, mean over utterances: ``()``.

    Args:
        teacher: of the full size, detached.
        pupil: of a smaller size, on the same utterances.
        targets: of these utterances.
        ctc_weight: with it the parts are weighted as those of the loss are.
        per_token: the decoder's loss, and so what it learns here, is a mean over tokens.
    """
    total = torch.zeros((), device=targets.frames.device)
    if teacher.ctc is not None and pupil.ctc is not None:
        is_real = _first(targets.frames, pupil.ctc.size(1))
        total = total + ctc_weight * _divergence(teacher.ctc, pupil.ctc, is_real)
    if teacher.decoder is not None and pupil.decoder is not None:
        # More than labels: the end of the sentence, with lang_token_id a language before them.
        length = pupil.decoder.size(1)
        is_real = _first(targets.text_lengths + length - targets.text.size(1), length)
        # Of a part of the batch all may be shorter than what the teacher was told.
        part = _divergence(teacher.decoder[:, :length], pupil.decoder, is_real)
        if per_token:
            part = part * is_real.size(0) / is_real.sum()
        total = total + (1.0 - ctc_weight) * part
    return total


def _first(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """True on the first so many of each row, ``(batch, size)``."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def _divergence(
    teacher: torch.Tensor, pupil: torch.Tensor, is_real: torch.Tensor
) -> torch.Tensor:
    of_teacher, of_pupil = _log_posteriors(teacher), _log_posteriors(pupil)
    kl = torch.nn.functional.kl_div(of_pupil, of_teacher, reduction="none", log_target=True)
    return kl.sum(-1).masked_fill(~is_real, 0.0).sum() / is_real.size(0)
