"""WAV headers: how much sound they tell of, which libsndfile cuts to what is there in silence."""

import io
import os
import struct
from pathlib import Path
from typing import NamedTuple

# A writer that cannot go back, a pipe's, leaves 0 or the largest size that it can write.
UNKNOWN = 0x7FFF0000
ALL = b"\xff\xff\xff\xff"  # what libsndfile takes for all that follows


class Sound(NamedTuple):
    """The data chunk of a WAV file.

    Attributes:
        first: its first byte in the file.
        told: its bytes as the header has them.
        there: bytes of the file from its first one on.
        byte_rate: bytes per second.
        is_closed: the header was written when the file was whole.
    """

    first: int
    told: int
    there: int
    byte_rate: int
    is_closed: bool

    @property
    def missing_seconds(self) -> float:
        """What the header tells of and the file has not."""
        if not self.byte_rate or self.told >= UNKNOWN:
            return 0.0
        return max(0, self.told - self.there) / self.byte_rate

    @property
    def is_untold(self) -> bool:
        """The header has no length, but there is sound."""
        return not self.told and self.there > 0 and not self.is_closed


def find_sound(path: str | Path) -> Sound | None:
    """Read the header of a WAV file (RIFF, or RIFX); None of another file.

    Raises:
        OSError: where it cannot be read.
    """
    with open(path, "rb") as file:
        size, kind = os.fstat(file.fileno()).st_size, file.read(4)
        order = {b"RIFF": "<", b"RIFX": ">"}.get(kind)
        riff = file.read(8)
        if order is None or riff[4:] != b"WAVE":
            return None
        (told,) = struct.unpack(f"{order}I", riff[:4])
        is_closed, byte_rate = told + 8 == size, 0
        while len(head := file.read(8)) == 8:
            (told,) = struct.unpack(f"{order}I", head[4:])
            first = file.tell()
            if head[:4] == b"data":
                return Sound(first, told, size - first, byte_rate, is_closed)
            if head[:4] == b"fmt ":
                conf = file.read(min(told, 16))
                if len(conf) >= 12:
                    (byte_rate,) = struct.unpack(f"{order}I", conf[8:12])
            file.seek(first + told + told % 2)  # chunks begin at even bytes
        return None


class WithLength(io.FileIO):
    """A WAV file whose header has no length, as if it told of all that is there.

    For soundfile, which reads by ``readinto``.
    """

    def __init__(self, path: str | Path, sound: Sound):
        super().__init__(path)
        self.changed = (4, sound.first - 4)  # of the whole, and of the data

    def readinto(self, buffer) -> int:
        first = self.tell()
        count = super().readinto(buffer)
        view = memoryview(buffer).cast("B")
        for start in self.changed:
            for i in range(max(start, first), min(start + len(ALL), first + count)):
                view[i - first] = ALL[i - start]
        return count
