"""BatchNorm statistics of one size, estimated anew.

A supernet has statistics of the sizes that are trained, and with ``sizes: any`` means of these for
others; those of one size can be taken of more audio, or of another kind (docs/method.md, trap 9).
"""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet_des.errors import ConfigError
from espnet_des.nn.batch_norm import STATISTICS, FiniteBatchNorm1d
from espnet_des.nn.sizes import is_supernet
from espnet_des.nn.waveforms import can_have_speech
from espnet_des.utils.audio import find_audio, read_header, read_mono, tell_conversions
from espnet_des.utils.progress import progress

BATCH_SIZE = 16


def read_batches(
    source: Path, model: ESPnetASRModel, rate: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Audio in batches of similar length, without what is too short for the front end.

    Args:
        source: see :func:`find_audio`.
        model: that hears it.
        rate: samples per second that it takes.

    Yields:
        Speech ``(batch, samples)`` and its lengths ``(batch,)``.
    """
    wavs = find_audio(source)
    headers = {utt: read_header(path) for utt, path in wavs.items()}
    tell_conversions(headers.values(), rate)
    order = sorted(wavs, key=lambda utt: headers[utt].frames / headers[utt].rate)
    batches = [order[i : i + BATCH_SIZE] for i in range(0, len(order), BATCH_SIZE)]
    for utts in progress(batches, desc="BatchNorm statistics", unit="batch"):
        waves = [torch.from_numpy(read_mono(wavs[utt], rate)) for utt in utts]
        waves = [wave for wave in waves if can_have_speech(model, wave)]
        if not waves:
            continue
        yield pad_sequence(waves, batch_first=True), torch.tensor([len(w) for w in waves])


@torch.no_grad()
def recalibrate(
    model: ESPnetASRModel, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> int:
    """Set the running statistics of the layers that the model runs.

    They become the mean of the batches' statistics, weighted by their frames.
    As in training, a batch is normalised by its own statistics, and frames of
    padding count: put utterances of similar length together.

    Args:
        model: an ESPnet ASR model, at the size in question.
        batches: of speech ``(batch, samples)`` and its lengths ``(batch,)``.

    Returns:
        Number of frames.

    Raises:
        ConfigError: without a BatchNorm, or without audio.
    """
    encoder, kept = model.encoder, model.encoder.active_units()
    runs = range(encoder.num_layers) if kept is None else encoder.parts_of(set(kept))
    blocks = {encoder.layers[q].block for q in runs if encoder.layers[q].kind == "conv"}
    norms = [
        module
        for number in blocks
        for module in model.encoder.encoders[number].conv_module.modules()
        if isinstance(module, FiniteBatchNorm1d)
    ]
    if not norms:
        raise ConfigError(
            "recalibrate_scp: this size has no BatchNorm, and needs no statistics "
            "(encoder_conf: conv_norm: layer_norm); leave it out"
        )
    if is_supernet(model):
        encoder.keep_statistics_of(encoder.size)
    model.eval()
    frames = dict.fromkeys(norms, 0)

    def weigh(norm, running, inputs):
        """Before ``running`` runs, the norm or a copy of it in a block with weights of its own."""
        (x,) = inputs  # (batch, dim, time)
        new = x.size(0) * x.size(2)
        if not frames[norm]:  # the encoder has just said of which size they are
            for statistic, start in zip(running.statistics(), STATISTICS.values()):
                statistic.fill_(start)
        frames[norm] += new
        running.momentum = new / frames[norm]

    momenta = [norm.momentum for norm in norms]
    hooks = [norm.register_forward_pre_hook(partial(weigh, norm)) for norm in norms]
    try:
        for norm in norms:
            norm.train()
        for speech, lengths in batches:
            with contextlib.suppress(TooShortUttError):  # all of them: they have no frame
                model.encode(speech, lengths)
    finally:
        for norm, momentum, hook in zip(norms, momenta, hooks):
            norm.momentum = momentum
            norm.eval()
            hook.remove()
    if not all(frames.values()):
        raise ConfigError(
            "recalibrate_scp: it has no audio to take statistics of, or none that is long enough"
        )
    return frames[norms[0]]
