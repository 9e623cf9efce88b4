"""CTC best-path decoding, batched: the most probable token of every frame.

Repetitions are merged and blanks dropped. This is not a beam search with
``ctc_weight: 1.0``; it is much faster and has no language model.
"""

import argparse
from typing import Dict, Iterator, List, Tuple

import soundfile
import torch

from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet_des.progress import progress


class BestPathDecoder:
    """Speech to text with a CTC model.

    >>> decoder = BestPathDecoder(model, train_args)
    >>> decoder([wave])
    ['ONE TWO THREE']

    Args:
        model: an ESPnet ASR model with a CTC output layer.
        train_args: what ESPnet's build_model_from_file returns beside it.
    """

    def __init__(self, model: torch.nn.Module, train_args: argparse.Namespace):
        self.model = model.eval()
        self.converter = TokenIDConverter(token_list=train_args.token_list)
        self.tokenizer = build_tokenizer(
            token_type=train_args.token_type, bpemodel=train_args.bpemodel
        )

    @torch.no_grad()
    def __call__(self, waves: List[torch.Tensor]) -> List[str]:
        """Decode a batch of waveforms, each ``(num_samples,)``."""
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(w) for w in waves], device=device)
        speech = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True).to(device)
        try:
            encoded, encoded_lengths = self.model.encode(speech, lengths)
        except TooShortUttError:
            return [""] * len(waves)
        best = self.model.ctc.argmax(encoded).cpu()
        return [self._text(ids[:n]) for ids, n in zip(best, encoded_lengths.tolist())]

    def _text(self, ids: torch.Tensor) -> str:
        merged = ids.unique_consecutive()
        tokens = self.converter.ids2tokens(merged[merged != self.model.blank_id].tolist())
        return self.tokenizer.tokens2text(tokens)


def decode_files(
    decoder: BestPathDecoder, wavs: Dict[str, str], batch_size: int, title: str
) -> Dict[str, str]:
    """Decode files: utterance id to path gives utterance id to text."""
    texts = {}
    with progress(total=len(wavs), desc=title, unit="utt") as bar:
        for utts, waves in _batches(wavs, batch_size):
            texts.update(zip(utts, decoder(waves)))
            bar.update(len(utts))
    return {utt: texts[utt] for utt in wavs}


def _batches(
    wavs: Dict[str, str], batch_size: int
) -> Iterator[Tuple[List[str], List[torch.Tensor]]]:
    """Files of similar length together: padding costs as much as speech."""
    order = sorted(wavs, key=lambda utt: soundfile.info(wavs[utt]).frames)
    for first in range(0, len(order), batch_size):
        utts = order[first : first + batch_size]
        waves = [soundfile.read(wavs[utt], dtype="float32")[0] for utt in utts]
        yield utts, [torch.from_numpy(w) for w in waves]
