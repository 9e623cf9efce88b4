"""Sounds in Kaldi's archives: ``data_wav.ark:1234``, as tables of ESPnet's dumps name them.

ESPnet's stage 3 writes them with ``--audio_format flac.ark``: after the id the word AUDIO,
the bytes of the length, the length, and a whole file. Kaldi itself writes WAV files as they are.
"""

import io
import re
from typing import NamedTuple

PLACE = re.compile(r"(.+\.ark):(\d+)")
AUDIO, RIFF = b"AUDIO", b"RIFF"


class NoSoundError(ValueError):
    """There is no sound at a place of an archive, or only a part of one: says what there is."""


class Place(NamedTuple):
    """Where a sound begins.

    Attributes:
        archive: path of the file.
        offset: byte of it.
    """

    archive: str
    offset: int


def find_place(name: str) -> Place | None:
    """The place that a name stands for; None where it is a path."""
    found = PLACE.fullmatch(name)
    return None if found is None else Place(found[1], int(found[2]))


def read_sound(place: Place) -> io.BytesIO:
    """The audio file that an archive holds at a place.

    Raises:
        NoSoundError: where it holds none.
        OSError: where it cannot be read.
    """
    with open(place.archive, "rb") as file:
        file.seek(place.offset)
        begin = file.read(len(AUDIO))
        if begin == AUDIO:
            length = int.from_bytes(file.read(int.from_bytes(file.read(1))), "little")
            content = file.read(length)
        elif begin.startswith(RIFF):
            begin += file.read(8 - len(begin))
            length = 8 + int.from_bytes(begin[4:], "little")
            content = begin + file.read(length - 8)
        else:
            raise NoSoundError(f"no sound begins at byte {place.offset}")
    if len(content) < length:
        raise NoSoundError(
            f"holds {len(content)} of the {length} bytes of this sound; it was cut off"
        )
    return io.BytesIO(content)
