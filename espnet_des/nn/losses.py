"""Losses of one pass, with ESPnet's weights of them and under ESPnet's names."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch

from espnet2.asr.ctc import CTC
from espnet_des.espnet_api import attention_loss, transducer_loss

# The first token, also where a multi-blank transducer's blank is another.
CTC_BLANK = 0


class Labels(NamedTuple):
    """Token ids ``(batch, length)``, and their lengths ``(batch,)``."""

    text: torch.Tensor
    lengths: torch.Tensor


class Targets(NamedTuple):
    """What all passes of an update are to say, fetched from the device in one transfer.

    Attributes:
        text: token ids ``(batch, length)``.
        text_lengths: ``(batch,)``.
        frames: lengths of the encoder's output ``(batch,)``, or of the post-encoder's.
        text_lengths_cpu, frames_cpu: the same on the CPU.
        of_exits: labels of exits that say something else, by the number of their block.
    """

    text: torch.Tensor
    text_lengths: torch.Tensor
    frames: torch.Tensor
    text_lengths_cpu: torch.Tensor
    frames_cpu: torch.Tensor
    of_exits: Mapping[int, Labels] = {}

    def of_utterances(self, rows: torch.Tensor, rows_cpu: torch.Tensor) -> "Targets":
        """The part of some utterances, given by their numbers in the batch, twice.

        Without the labels of exits, which only the full size has.
        """
        lengths = self.text_lengths_cpu[rows_cpu]
        return Targets(
            self.text[rows][:, : lengths.max()],
            self.text_lengths[rows],
            self.frames[rows],
            lengths,
            self.frames_cpu[rows_cpu],
        )


class Outputs(NamedTuple):
    """What one pass of the encoder gives.

    Attributes:
        last: ``(batch, time, dim)``.
        exits: numbers of blocks and their outputs, of that shape.
    """

    last: torch.Tensor
    exits: list[tuple[int, torch.Tensor]]


class ErrorRates:
    """ESPnet's error rates; NaN of a batch without words, by which ESPnet would divide."""

    def __init__(self, calculator):
        self.calculator = calculator
        wanted = {"cer": calculator.report_cer, "wer": calculator.report_wer}
        self.names = [name for name, is_wanted in wanted.items() if is_wanted]

    def __call__(self, *args, **kwargs):
        try:
            return self.calculator(*args, **kwargs)
        except ZeroDivisionError:
            return float("nan"), float("nan")


def losses_of_pass(
    model: Any, ctc: CTC | None, outputs: Outputs, targets: Targets
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The loss of ``ESPnetASRModel.forward`` on one output of the encoder.

    Args:
        model: a DESModel, here as below.
        ctc: with the output layer of the size; None of a model without.

    Returns:
        Loss ``()``; statistics, :func:`names_of_losses` says which.
    """
    out, lengths, lengths_cpu = outputs.last, targets.frames, targets.frames_cpu
    stats: dict[str, Any] = {}
    loss_ctc = None
    if ctc is not None:
        # ESPnet and torch read lengths on the CPU, and would wait for each of them.
        on_cpu = ctc.ctc_type == "builtin"
        ctc_lengths = lengths_cpu if on_cpu else lengths
        text_lengths = targets.text_lengths_cpu if on_cpu else targets.text_lengths
        labels = Labels(targets.text, text_lengths)
        loss_ctc, stats = ctc_loss(model, ctc, out, ctc_lengths, labels, "ctc")
        of_exits = []
        for number, exit_out in outputs.exits:
            own = targets.of_exits.get(number, labels)
            own = own._replace(lengths=own.lengths.to(text_lengths.device))
            name = f"interctc_layer{number}"
            loss, more = ctc_loss(model, ctc, exit_out, ctc_lengths, own, name)
            of_exits.append(loss)
            stats |= more
        if of_exits:
            weight = model.interctc_weight
            loss_ctc = (1 - weight) * loss_ctc + weight * (sum(of_exits) / len(of_exits))
    if model.use_transducer_decoder:
        found = transducer_loss(model, out, lengths_cpu, targets.text)
        stats["loss_transducer"] = found.loss.detach()
        stats |= rates_of(model, found.cer, found.wer)
        loss = found.loss if loss_ctc is None else found.loss + model.ctc_weight * loss_ctc
    elif model.ctc_weight != 1.0:
        # Of a part of a batch all may be shorter, which some decoders of ESPnet do not take.
        longest = out[:, : max(1, int(lengths_cpu.max()))]
        att = attention_loss(model, longest, lengths, targets.text, targets.text_lengths)
        stats |= {"loss_att": att.loss.detach(), "acc": att.accuracy}
        stats |= rates_of(model, att.cer, att.wer)
        loss = att.loss
        if loss_ctc is not None:
            loss = model.ctc_weight * loss_ctc + (1 - model.ctc_weight) * att.loss
    else:  # with CTC alone there is one
        loss = cast(torch.Tensor, loss_ctc)
    return loss, stats


def ctc_loss(
    model: Any,
    ctc: CTC,
    out: torch.Tensor,
    lengths: torch.Tensor,
    labels: Labels,
    name: str,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """CTC's loss and, where ESPnet tells it, its error rate.

    Args:
        ctc: with the output layer of the size.
        out: ``(batch, time, dim)``.
        lengths: of it, ``(batch,)``.
        name: of the statistics, behind ``loss_`` and ``cer_``.
    """
    loss = ctc(out, lengths, *labels)
    stats: dict[str, Any] = {f"loss_{name}": loss.detach()}
    if not model.training and model.error_calculator is not None:
        best = ctc.argmax(out).detach().cpu()
        cer = model.error_calculator(best, labels.text.cpu(), is_ctc=True)
        stats[f"cer_{name}"] = float("nan") if cer is None else cer
    return loss, stats


def rates_of(model: Any, cer: float | None, wer: float | None) -> dict[str, Any]:
    """Error rates of the decoder or transducer, under their names, in evaluation."""
    names = {} if model.training else names_of_rates(model)
    return {name: {"cer": cer, "wer": wer}[rate] for rate, name in names.items()}


def names_of_rates(model: Any) -> dict[str, str]:
    """Names of the statistics for those of ``cer`` and ``wer`` that are asked for."""
    calculator, suffix = model.error_calculator, ""
    if model.use_transducer_decoder:
        calculator, suffix = model.error_calculator_trans, "_transducer"
    return {} if calculator is None else {rate: rate + suffix for rate in calculator.names}


def names_of_losses(
    model: Any, training: bool, exits: Sequence[int], with_decoder: bool | None = None
) -> list[str]:
    """Names of the statistics of :func:`losses_of_pass`.

    Args:
        training: False for those of evaluation.
        exits: numbers of the blocks that have one in this pass.
        with_decoder: as if the model had one with attention; None: as it is.
    """
    names = []
    if model.ctc is not None:
        kinds = ["loss"] if training or model.error_calculator is None else ["loss", "cer"]
        parts = ["ctc", *(f"interctc_layer{number}" for number in exits)]
        names += [f"{kind}_{part}" for part in parts for kind in kinds]
    is_transducer = model.use_transducer_decoder
    if with_decoder is None:
        with_decoder = not is_transducer and model.ctc_weight != 1.0
    names += ["loss_transducer"] if is_transducer else []
    names += ["loss_att", "acc"] if with_decoder else []
    if not training and (is_transducer or with_decoder):
        names += names_of_rates(model).values()
    return names
