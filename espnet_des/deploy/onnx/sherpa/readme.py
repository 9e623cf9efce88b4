"""README.md of a folder for sherpa-onnx: how to use it, and what is not exact."""

from collections.abc import Sequence
from string import Template

from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet_des.deploy.onnx.sherpa.graph import MARK, MARK_HALF

RATE = 16000  # to which sherpa-onnx resamples
FRAME = 320  # samples of a frame, as sherpa-onnx assumes for timestamps

README = Template("""\
# A model of $layers layers for sherpa-onnx

`$model` and `tokens.txt` run with sherpa-onnx as it is (tested with 2.0.1), in every language
that it has an interface for. Load them as a CTC model of Omnilingual ASR, which is the kind of
its models that takes samples. Run the commands in this folder.

## Python

```sh
pip install sherpa-onnx soundfile
```

```python
import numpy
import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
    model="$model", tokens="tokens.txt", num_threads=1
)
samples, rate = soundfile.read("some.wav", dtype="float32", always_2d=True)
stream = recognizer.create_stream()
# The mark: it tells the model how sherpa-onnx normalises what follows, and is cut off again.
stream.accept_waveform($rate, numpy.repeat(numpy.float32([$mark, -$mark]), $half))
stream.accept_waveform(rate, samples.mean(axis=1))
recognizer.decode_stream(stream)
print(stream.result.text)
```

## Command line

```sh
pip install sherpa-onnx-bin
sherpa-onnx-offline --omnilingual-asr-model=$model --tokens=tokens.txt --num-threads=1 some.wav
```

The command takes WAV files of 16 bits and one channel, and prints the text as JSON. It gives no
mark, so its text can differ in a few letters. Programs in other languages can give the mark as
Python does: $half samples of $mark and $half of -$mark, at $rate Hz.

## What is not exactly as in decode_best_path

$notes
""")


def readme(model: str, layers: int, notes: Sequence[str]) -> str:
    """The whole text.

    Args:
        model: name of the model's file.
        layers: its number.
        notes: see :func:`inexact`.
    """
    return README.substitute(
        model=model, layers=layers, notes="\n".join(f"- {note}" for note in notes),
        rate=RATE, mark=MARK, half=MARK_HALF,
    )  # fmt: skip


def inexact(model, others: dict[str, str], samples_per_frame: float) -> list[str]:
    """Where sherpa-onnx gives something else than ``decode_best_path``.

    Args:
        model: of one size, in PyTorch.
        others: tokens with another text, to that of ESPnet.
        samples_per_frame: from one frame of output to the next.
    """
    level = (
        "The features depend on the level of the audio only at the floor of log-mel"
        if isinstance(model.normalize, UtteranceMVN)
        else "The features depend on the level of the audio"
    )
    notes = [
        f"{level}, and sherpa-onnx normalises it. With the mark the model undoes that exactly. "
        "Without, it finds the level to 0.1 dB in 30 s of speech 20 dB below full scale; in "
        "longer and louder audio the rounding makes it less exact.",
        "sherpa-onnx subtracts the mean of the samples. With the mark the model undoes that, "
        "too, and without in audio with digital silence. Other audio differs where it has an "
        "offset, or a strong rumble.",
        "Audio of another sampling rate is resampled by sherpa-onnx's own filter.",
    ]
    if samples_per_frame != FRAME:
        notes.append(
            f"sherpa-onnx's timestamps are those of frames of {FRAME / RATE * 1000:g} ms; "
            f"multiply them by {samples_per_frame / FRAME:g}. They count from behind the mark."
        )
    if others:
        listed = ", ".join(f"`{token}` (`{text}`)" for token, text in others.items())
        notes.append(f"Tokens that decode_best_path writes otherwise (so): {listed}.")
    return notes
