"""In-place distillation: in every update the full size's posteriors teach the other sizes.

The full size runs first anyway, so no pass is added, and no teacher has to be trained before.
Its posteriors are constants here: the full size learns nothing from its pupils.

Source: Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV
2019 (in-place distillation); it is not in the paper of the method.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from espnet2.asr.ctc import CTC
from espnet_des.nn.losses import Outputs, Targets, losses_of_pass


class Logits(NamedTuple):
    """What a pass says, before the softmax.

    Attributes:
        ctc: ``(batch, time, vocab)``; None of a model without CTC.
        decoder: of the decoder with attention, told the right tokens before,
            ``(batch, length + 1, vocab)``; None without one.
    """

    ctc: torch.Tensor | None
    decoder: torch.Tensor | None

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Logits":
        """Each part that there is, changed."""
        return Logits(*(None if part is None else change(part) for part in self))


class Distillation:
    """Of one update: what the full size has said, and the losses of those that learn from it.

    Args:
        weight: of the distillation in each loss.
    """

    def __init__(self, weight: float):
        self.weight = weight
        self.teacher: Logits | None = None

    def losses_of_pass(
        self,
        model: Any,
        ctc: CTC | None,
        outputs: Outputs,
        targets: Targets,
        rows: torch.Tensor | None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """As the function of this name, with what the full size teaches.

        The first call is the full size's.

        Args:
            targets: of the utterances of this pass.
            rows: their numbers in the batch; None for all.
        """
        decoder = None if model.use_transducer_decoder else model.decoder
        ctc_lo = None if ctc is None else ctc.ctc_lo
        with first_outputs(ctc_lo, decoder) as outs:
            loss, stats = losses_of_pass(model, ctc, outputs, targets)
        said = Logits(outs[0], None if outs[1] is None else outs[1][0])
        if self.teacher is None:
            self.teacher = said.changed(torch.Tensor.detach)
            return loss, stats
        teacher = self.teacher
        if rows is not None:
            teacher = teacher.changed(lambda part: part[rows])
        more = distillation_loss(teacher, said, targets, model.ctc_weight)
        stats["loss_distillation"] = more.detach()
        return loss + self.weight * more, stats


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
    teacher: Logits, pupil: Logits, targets: Targets, ctc_weight: float
) -> torch.Tensor:
    """KL(teacher || pupil), summed over frames or tokens, mean over utterances: ``()``.

    Args:
        teacher: of the full size, detached.
        pupil: of a smaller size, on the same utterances.
        targets: of these utterances.
        ctc_weight: with it the parts are weighted as those of the loss are.
    """
    total = torch.zeros((), device=targets.frames.device)
    if teacher.ctc is not None and pupil.ctc is not None:
        is_real = _first(targets.frames, pupil.ctc.size(1))
        total = total + ctc_weight * _divergence(teacher.ctc, pupil.ctc, is_real)
    if teacher.decoder is not None and pupil.decoder is not None:
        # One more than labels: the end of the sentence.
        is_real = _first(targets.text_lengths + 1, pupil.decoder.size(1))
        part = _divergence(teacher.decoder, pupil.decoder, is_real)
        total = total + (1.0 - ctc_weight) * part
    return total


def _first(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """True on the first so many of each row, ``(batch, size)``."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def _divergence(
    teacher: torch.Tensor, pupil: torch.Tensor, is_real: torch.Tensor
) -> torch.Tensor:
    # In float32 at least: autocast's half precision is too coarse for logarithms.
    dtype = torch.promote_types(pupil.dtype, torch.float32)
    of_teacher, of_pupil = teacher.log_softmax(-1, dtype), pupil.log_softmax(-1, dtype)
    kl = torch.nn.functional.kl_div(of_pupil, of_teacher, reduction="none", log_target=True)
    return kl.sum(-1).masked_fill(~is_real, 0.0).sum() / is_real.size(0)
