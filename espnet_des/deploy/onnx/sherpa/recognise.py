"""Speech recognition by the installed sherpa-onnx, with the folder that is made for it."""

from collections.abc import Callable
from pathlib import Path

import numpy

from espnet_des.deploy.onnx.sherpa.folder import TOKENS
from espnet_des.deploy.onnx.sherpa.graph import mark
from espnet_des.deploy.onnx.sherpa.readme import RATE


def recogniser(file: Path, marked: bool = True) -> Callable[[numpy.ndarray], str]:
    """A function from samples ``(num_samples,)``, of 16 kHz, to text; in one thread.

    Args:
        file: the model in its folder.
        marked: whether it is given the mark, without which the text may differ a little.

    Raises:
        ImportError: where sherpa-onnx is not installed.
    """
    import sherpa_onnx

    theirs = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(file), tokens=str(file.parent / TOKENS), num_threads=1
    )

    def recognise(samples: numpy.ndarray) -> str:
        stream = theirs.create_stream()
        if marked:
            stream.accept_waveform(RATE, mark())
        stream.accept_waveform(RATE, samples)
        theirs.decode_stream(stream)
        return stream.result.text

    return recognise
