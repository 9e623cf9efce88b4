"""What the tables of a training must agree on, looked at before the first update.

ESPnet reads a file when its turn comes: an id that is missing ends the training
then, and audio of another rate than the front end's is never noticed.
"""

from typing import Collection, Optional

import humanfriendly

from espnet2.fileio.sound_scp import SoundScpReader
from espnet2.train.dataset import AbsDataset, ESPnetDataset
from espnet_des.audio import AudioError, read_header
from espnet_des.options import ConfigError


def check_ids(dataset: AbsDataset, utts: Optional[Collection[str]], name: str) -> None:
    """Refuse tables that lack utterances of the batches.

    Args:
        dataset: of a training.
        utts: ids that the batches are made of.
        name: of the set, ``train`` or ``valid``.

    Raises:
        ConfigError: naming the table and an utterance that it lacks.
    """
    if utts is None or not isinstance(dataset, ESPnetDataset):
        return
    for key, loader in dataset.loader_dict.items():
        lacking = sorted(set(utts) - set(loader.keys()))
        if lacking:
            raise ConfigError(
                f"{name}_data_path_and_name_and_type: {dataset.debug_info[key][0]} has no line "
                f"for {len(lacking)} of the {len(utts)} utterances of {name}_shape_file, such "
                f"as {lacking[0]!r}; give tables of the same utterances"
            )


def check_rate(dataset: AbsDataset, fs, name: str) -> None:
    """Refuse audio whose rate is not the front end's, by its first file.

    Args:
        dataset: of a training.
        fs: of ``frontend_conf``, as ESPnet takes it.
        name: of the set, ``train`` or ``valid``.

    Raises:
        ConfigError: naming the file, its rate and the front end's.
    """
    if not isinstance(dataset, ESPnetDataset):
        return
    for key, loader in dataset.loader_dict.items():
        reader = getattr(loader, "loader", None)
        if not isinstance(reader, SoundScpReader) or reader.multi_columns:
            continue
        utt = next(iter(reader))
        try:
            found = read_header(reader.get_path(utt)).rate
        except AudioError:
            continue  # ESPnet names it when it comes to it
        rate = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
        if found != rate:
            raise ConfigError(
                f"frontend_conf: fs: {fs!r} must be the rate of the audio: {utt} of "
                f"{dataset.debug_info[key][0]} ({name}) has {found} Hz. Set fs, or resample"
            )
