"""``slices.json``: what each size costs and gives, for commands that choose one."""

import json
import statistics
from pathlib import Path

from espnet_des.utils.files import write_atomically
from espnet_des.utils.pareto import on_front


def write_slices(folders: list[Path], about: dict, rows: list[dict]) -> None:
    """Write ``slices.json``: ``{"about": {...}, "slices": [...]}``.

    A slice has ``size`` (layers), ``params`` (all of the extracted model), ``macs_per_second``
    (of audio), ``rtf`` (seconds of work per second of audio, one thread), ``file_bytes``,
    ``wer`` (percent, by test set), and ``pareto``: whether no other size has as few errors,
    in the mean of the test sets, for fewer MACs.

    Args:
        folders: where to write it.
        about: model, machine and versions, as in ``report.json``.
        rows: of ``sizes.json``, with all costs.
    """
    front = on_front(
        [row["macs_per_second"] for row in rows],
        [statistics.fmean(row["wer"].values()) for row in rows],
    )
    slices = [
        {
            "size": row["size"],
            "params": row["model_params"],
            "macs_per_second": row["macs_per_second"],
            "rtf": row["rtf_1_thread"],
            "file_bytes": row["model_file_bytes"],
            "wer": row["wer"],
            "pareto": is_on_front,
        }
        for row, is_on_front in zip(rows, front)
    ]
    text = json.dumps({"about": about, "slices": slices}, indent=2) + "\n"
    for folder in folders:
        write_atomically(folder / "slices.json", lambda path: path.write_text(text, "utf-8"))
