"""ESPnet's ``Speech2Text`` for models of any size, which a supernet can change.

>>> from espnet_des import Speech2Text
>>> speech2text = Speech2Text("exp/config.yaml", "exp/valid.cer_ctc.ave.pth", size=16)
>>> speech2text(speech)[0][0]
'ONE TWO THREE'
>>> speech2text.set_size(48)
>>> speech2text.set_budget(macs="300M")
32
"""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

import espnet2.bin.asr_inference as stock
from espnet2.asr.transducer.beam_search_transducer import Hypothesis as TransducerHypothesis
from espnet2.legacy.nets.beam_search import Hypothesis
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.main_funcs.pack_funcs import unpack
from espnet2.utils.pretrained import download_pretrained
from espnet_des.errors import ConfigError
from espnet_des.inference.budget import (
    TIMES,
    check_can_choose,
    counted_costs,
    one_budget,
    sizes_within,
    table_for,
    timed_costs,
)
from espnet_des.inference.loading import check_trained, load_model, read_config
from espnet_des.inference.named_files import check_tokenizer, found_files
from espnet_des.nn.cost_table import CostTable
from espnet_des.nn.sizes import set_size, sizes_of
from espnet_des.nn.waveforms import can_have_speech
from espnet_des.utils.audio import check_finite, check_shape
from espnet_des.utils.partial import make_partial_folder
from espnet_des.utils.signature import merge_signature

Wave = torch.Tensor | np.ndarray
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".tbz2", ".bz2", ".txz", ".xz")
# Samples with which no front end finds an utterance too short.
ALWAYS_ENOUGH = 16000


@merge_signature(stock.Speech2Text)
class Speech2Text(stock.Speech2Text):
    """ESPnet's beam search with a supernet, an extracted size or a stock model.

    It is called as ESPnet's, and returns the same. Audio without samples, with
    zeros only, or too short for the front end gives one hypothesis without tokens.
    Threads need an object each.

    Args:
        asr_train_config: ``config.yaml``; by default the one beside the model file.
        asr_model_file: parameters of the model.
        size: number of layers; by default all that the model has.
        **kwargs: see ESPnet's class.

    Raises:
        ConfigError: where a file is missing or damaged, or the model has no such size.
    """

    def __init__(
        self,
        asr_train_config: Path | str | None = None,
        asr_model_file: Path | str | None = None,
        *args,
        size: int | None = None,
        **kwargs,
    ):
        if asr_model_file is None:
            raise ConfigError(
                "asr_model_file: None must be the file of a trained model (its weights "
                "would be random); a packed model is loaded with from_pretrained"
            )
        config = Path(asr_train_config or Path(asr_model_file).with_name("config.yaml"))
        is_of_asr = not kwargs.get("enh_s2t_task")  # else its config has other keys
        found = found_files(read_config(config), config) if is_of_asr else nullcontext(config)
        with found as config_to_build:
            try:
                super().__init__(config_to_build, asr_model_file, *args, **kwargs)
            except Exception:
                # Names the file where the model is at fault, not a language model or an option.
                if is_of_asr:
                    load_model(config, asr_model_file)
                raise
        check_trained(self.asr_model, asr_model_file)
        check_tokenizer(self.tokenizer)
        self._counted: dict[str, dict[int, int]] = {}  # costs of the sizes, by what is counted
        self.set_size(size)

    @property
    def sizes(self) -> list[int]:
        """Numbers of layers that can be set, ascending; see :func:`sizes_of`."""
        return sizes_of(self.asr_model)

    @property
    def size(self) -> int | None:
        """Number of layers that recognise now; None where they are not counted."""
        sizes = self.sizes
        return self.asr_model.encoder.size if len(sizes) > 1 else next(iter(sizes), None)

    def set_size(self, size: int | None) -> None:
        """Recognise at this size from now on; nothing is loaded or copied.

        Raises:
            ConfigError: where the model has no such size.
        """
        set_size(self.asr_model, size)

    def set_budget(
        self,
        macs: float | str | None = None,
        params: float | str | None = None,
        ms: float | str | None = None,
        rtf: float | str | None = None,
        cost_table: Path | str | CostTable | None = None,
    ) -> int:
        """Recognise from now on at the largest size within a budget; returns that size.

        Exactly one of the first four is given, as a number or a text such as ``"150M"``.
        MACs and parameters are counted when they are first asked for, which takes about as
        long as a recognition; then a size is chosen in milliseconds.

        Args:
            macs: of encoder and CTC output layer, per second of audio (of 10 s).
            params: of the model that is extracted.
            ms: milliseconds for as many seconds of audio as the cost table has.
            rtf: seconds of work per second of audio.
            cost_table: of this machine, for ``ms`` and ``rtf``:
                what ``python3 -m espnet_des.bin.cost_table`` writes, or its path.

        Raises:
            ConfigError: where no size is within it, the budget is none, or the model is no
                supernet; the size stays as it is.
        """
        budget = one_budget(macs=macs, params=params, ms=ms, rtf=rtf)
        model, key = self.asr_model, budget.key
        check_can_choose(model, key)
        costs: Mapping[int, float]
        if key in TIMES:
            table = table_for(key, cost_table)
            table.check_runtime("pytorch")
            costs = timed_costs(model, key, table)
        elif cost_table is not None:
            raise ConfigError(
                f"cost_table: {cost_table} has times only, and {key} is asked for"
            )
        else:
            if key not in self._counted:
                self._counted[key] = counted_costs(model, key, self.asr_train_args)
            costs = self._counted[key]
        size = sizes_within(budget, costs)[-1]
        self.set_size(size)
        return size

    def __call__(self, speech):
        """Recognise ``(samples,)``, or a list of them as one batch; as ESPnet's.

        Raises:
            AudioError: a ValueError, where samples are NaN or infinite, or no waveform.
        """
        if isinstance(speech, (list, tuple)):
            return self.batch_decode(speech)
        if self._can_have_speech(speech, "speech"):
            try:
                return super().__call__(speech)
            except TooShortUttError:
                pass
        return self._nothing()

    def batch_decode(self, speech, speech_lengths=None):
        """Recognise several utterances in one search; as ESPnet's.

        Args:
            speech: a list of ``(samples,)``, or ``(batch, samples)``. With channels behind
                the samples, or of features, utterances are recognised one by one.
            speech_lengths: numbers of samples ``(batch,)``, of the latter.

        Raises:
            AudioError: a ValueError, where samples are NaN or infinite, or no waveform.
        """
        waves = speech
        if not isinstance(speech, (list, tuple)):
            if speech_lengths is None:
                raise ValueError("speech_lengths is required for a padded speech array")
            waves = [row[: int(n)] for row, n in zip(speech, speech_lengths)]
        if any(torch.as_tensor(wave).dim() > 1 for wave in waves):
            # Of channels or features: ESPnet would make one long wave of them.
            return [self(wave) for wave in waves]
        # Padded, one that is too short would no longer be refused, but guessed at.
        usable = [
            self._can_have_speech(wave, f"speech[{i}]") and self._is_long_enough(wave)
            for i, wave in enumerate(waves)
        ]
        decoded = [wave for wave, is_usable in zip(waves, usable) if is_usable]
        results = iter(super().batch_decode(decoded) if decoded else ())
        return [next(results) if is_usable else self._nothing() for is_usable in usable]

    def _can_have_speech(self, wave: Wave, name: str) -> bool:
        wave = torch.as_tensor(wave)
        if getattr(self.asr_model, "frontend", None) is not None:  # else it is of features
            check_shape(wave, name)
        check_finite(wave.float().numpy(force=True), name)
        return can_have_speech(self.asr_model, wave)

    @torch.no_grad()
    def _is_long_enough(self, wave: Wave) -> bool:
        if len(wave) >= ALWAYS_ENOUGH:
            return True
        speech = torch.as_tensor(wave)[None].to(self.device, getattr(torch, self.dtype))
        try:
            self.asr_model.encode(speech, torch.tensor([len(wave)], device=self.device))
        except TooShortUttError:
            return False
        return True

    def _nothing(self):
        """What ESPnet returns for one utterance, with no token in it."""
        model = self.asr_model
        hypothesis: Any
        if getattr(model, "use_transducer_decoder", False):
            hypothesis = TransducerHypothesis(0.0, [model.blank_id], dec_state=None)
        else:
            yseq = torch.tensor([model.sos, model.eos], device=self.device)
            hypothesis = Hypothesis(yseq=yseq, score=0.0, scores={}, states={})
        result: Any = [(None if self.tokenizer is None else "", [], [], hypothesis)]
        if self.multi_asr or self.enh_s2t_task:
            part, name = (model, "num_inf") if self.multi_asr else (model.enh_model, "num_spk")
            return [result] * getattr(part, name, 1)
        return result

    @classmethod
    def from_pretrained(cls, model_tag: Path | str | None = None, **kwargs):
        """Load a model packed by ``espnet2.bin.pack``, or one of ESPnet's zoo.

        Args:
            model_tag: path of a local archive (``.zip``, ``.tgz``, ...), which takes no
                network; or a URL, or a name at Hugging Face, which ESPnet keeps in
                its cache. By default, kwargs name the files.
            **kwargs: of the constructor, such as ``size``.

        Raises:
            ConfigError: where the archive is missing, damaged, or not of a model.
        """
        if model_tag is None:
            return cls(**kwargs)
        archive = Path(model_tag)
        is_local = archive.exists() or (
            archive.suffix in ARCHIVES and "://" not in str(model_tag)
        )
        if not is_local:
            return cls(**kwargs | download_pretrained(str(model_tag)))
        # ESPnet would unpack into one folder in its cache at each load, also while
        # another process reads it.
        folder = str(make_partial_folder(Path(tempfile.gettempdir()), "espnet_des.model"))
        try:
            speech2text = cls(**kwargs | unpacked(archive, folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # Not earlier: a sentencepiece model is read when it is first used.
        weakref.finalize(speech2text, shutil.rmtree, folder, ignore_errors=True)
        return speech2text


def unpacked(archive: Path, folder: str) -> dict[str, str]:
    """Unpack a model; returns its files, by the constructor's names for them.

    Raises:
        ConfigError: where the archive is missing, damaged, or not of a model.
    """
    if not archive.is_file():
        raise ConfigError(
            f"model_tag: {archive} is no file; give an archive that espnet2.bin.pack wrote, "
            "or asr_train_config and asr_model_file"
        )
    try:
        files = unpack(archive, folder)
    except Exception as error:  # of zipfile, tarfile, zlib, yaml and ESPnet
        raise ConfigError(
            f"model_tag: {archive} is damaged, or was not written by espnet2.bin.pack "
            f"({type(error).__name__}: {error})"
        ) from error
    for name, path in files.items():
        if not Path(path).exists():
            raise ConfigError(
                f"model_tag: {archive}: its {name} is {path}, which is not there; pack it "
                "again in the folder that holds its files, naming them by relative paths"
            )
    return files
