"""Utterances whose text does not fit into their audio, which CTC learns nothing from."""

from collections.abc import Sequence

import torch

from espnet_des.utils.ranks import warn_of_data

NAMED = 20  # utterances; there may be many more


def frames_of_ctc(text: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The fewest frames in which CTC can say each text, ``(batch,)``.

    One for each token, and a blank between two that are equal.

    Args:
        text: token ids ``(batch, length)``.
        lengths: ``(batch,)``.
    """
    places = torch.arange(text.size(1), device=text.device)[1:]
    is_repeat = (text[:, 1:] == text[:, :-1]) & (places < lengths[:, None])
    return lengths + is_repeat.sum(1)


class UnusableUtterances:
    """Names utterances whose text does not fit into their audio, each once.

    ESPnet's CTC loss of them is 0 (``zero_infinity``), and they are trained on in vain.
    """

    def __init__(self):
        self.seen = set()

    def tell(self, utts: Sequence[str], frames: torch.Tensor, needed: torch.Tensor) -> None:
        """Warn.

        Args:
            utts: ids of a batch; empty where they are not known.
            frames: of the encoder, ``(batch,)``, on the CPU.
            needed: see :func:`frames_of_ctc`; on the CPU.
        """
        for utt, has, needs in zip(utts, frames.tolist(), needed.tolist()):
            if has >= needs or utt in self.seen:
                continue
            self.seen.add(utt)
            if len(self.seen) <= NAMED:
                warn_of_data(
                    f"Utterance {utt} teaches CTC nothing: its text takes {needs} frames of "
                    f"the encoder, its audio has {has}. Does the text belong to it?"
                )
            if len(self.seen) == NAMED:
                warn_of_data("Further such utterances are not named.")
