"""Synthetic speakers: espeak-ng's voices, shifted.

The library and its voices come with the wheel ``espeakng-loader``; nothing is
downloaded or installed on the system.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

ACCENTS = (
    "en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan",
    "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
)  # fmt: skip
# Not like a person in a room: whispers, robots, effects.
UNLIKELY = ("robo", "whisper", "demonic", "klatt", "croak", "tweaky", "storm", "uni")


@dataclass(frozen=True)
class Speaker:
    """What makes a voice.

    Attributes:
        accent: an espeak-ng language.
        variant: an espeak-ng voice variant.
        pitch: 0 to 100.
        rate: words per minute.
        shift: factor by which all frequencies (and the tempo) are raised.
    """

    accent: str
    variant: str
    pitch: int
    rate: int
    shift: float

    @classmethod
    def draw(cls, rng: np.random.Generator, variants: Sequence[str]) -> "Speaker":
        shift = rng.uniform(0.08, 0.15) * rng.choice([-1, 1])
        return cls(
            accent=str(rng.choice(ACCENTS)),
            variant=str(rng.choice(variants)),
            pitch=int(rng.integers(25, 76)),
            rate=int(rng.integers(135, 196)),
            shift=1.0 + float(shift),
        )

    @property
    def sex(self) -> str:
        return "F" if self.pitch > 50 else "M"

    def __str__(self):
        return f"{self.accent}+{self.variant}"


class Synthesizer:
    """espeak-ng through its C interface; one per process.

    >>> synthesizer = Synthesizer()
    >>> speaker = synthesizer.draw(rng, "train-digits")
    >>> wave = synthesizer.say("one two three", speaker)
    """

    # Breathy voices go on drawing noise: what was said before changes what is said next.
    INDEPENDENT = False
    SYNCHRONOUS, UTF8, RATE, PITCH = 2, 1, 1, 3
    CALLBACK = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
    )

    def __init__(self):
        import espeakng_loader

        self._lib = ctypes.cdll.LoadLibrary(espeakng_loader.get_library_path())
        # The path has to be that of the folder which holds espeak-ng-data.
        folder = str(Path(espeakng_loader.get_data_path()).parent).encode()
        self.rate = self._lib.espeak_Initialize(self.SYNCHRONOUS, 0, folder, 0)
        if self.rate <= 0:
            raise RuntimeError(f"espeak-ng did not start (its answer was {self.rate})")
        # Breathy voices draw noise, with another seed in every process by default.
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(0))
        self._pieces = []
        self._callback = self.CALLBACK(self._take)  # kept: C holds its address only
        self._lib.espeak_SetSynthCallback(self._callback)
        names = (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()
        self.variants = sorted(
            n.name
            for n in names
            if not n.name.lower().startswith(UNLIKELY)
            and all(self._set_voice(f"{a}+{n.name}") for a in ACCENTS)
        )

    def _take(self, samples, count, events) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def _set_voice(self, name: str) -> bool:
        return self._lib.espeak_SetVoiceByName(name.encode()) == 0

    def draw(self, rng: np.random.Generator, part: str) -> Speaker:
        """A speaker; of every set from the same voices, which are many."""
        return Speaker.draw(rng, self.variants)

    def say(self, text: str, speaker: Speaker, sample_rate: int = 16000) -> np.ndarray:
        """Speak a text.

        Returns:
            Samples ``(num_samples,)``, float32, peak at 0.5.
        """
        if not self._set_voice(str(speaker)):
            raise ValueError(f"espeak-ng has no voice {speaker}")
        self._lib.espeak_SetParameter(self.RATE, speaker.rate, 0)
        self._lib.espeak_SetParameter(self.PITCH, speaker.pitch, 0)
        self._pieces = []
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, self.UTF8, None, None)
        self._lib.espeak_Synchronize()
        if not self._pieces:
            raise RuntimeError(f"espeak-ng said nothing for {text!r} ({speaker})")
        wave = np.concatenate(self._pieces).astype(np.float32)
        wave = soxr.resample(wave, self.rate * speaker.shift, sample_rate)
        return 0.5 * wave / max(1.0, float(np.abs(wave).max()))
