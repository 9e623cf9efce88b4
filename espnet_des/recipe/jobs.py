"""ESPnet's commands over parts of the data, several at once."""

import argparse
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from espnet_des.recipe.process import StageError, run_logged


def espnet(o: argparse.Namespace, command: str) -> list[str]:
    """Beginning of the command line of an ESPnet command."""
    return [*shlex.split(o.python), "-m", f"espnet2.bin.{command}"]


def tokens(o: argparse.Namespace, at) -> list[str]:
    """Options that all commands share which read text."""
    return [
        "--use_preprocessor", "true",
        "--bpemodel", str(at.bpe_model) if o.token_type == "bpe" else "none",
        "--token_type", o.token_type, "--token_list", str(at.token_list),
        "--non_linguistic_symbols", o.nlsyms_txt, "--cleaner", o.cleaner, "--g2p", o.g2p,
    ]  # fmt: skip


def speech(folder: Path) -> str:
    """The audio of a folder of the dump, for ESPnet's ``--..._data_path_and_name_and_type``.

    ESPnet's stage 3 may have written it, with ``--audio_format flac.ark`` for one.
    """
    named = folder / "audio_format"
    audio_format = named.read_text().strip() if named.exists() else ""
    kind = "multi_columns_sound" if audio_format.startswith("multi_") else "sound"
    kind = "kaldi_ark" if audio_format.endswith("ark") else kind
    return f"{folder / 'wav.scp'},speech,{kind}"


def run_in_parts(
    keys: dict[str, list[str]], jobs: int, logdir: Path, name: str,
    command: Callable[[int], list[str]],
) -> int:  # fmt: skip
    """Split lists of ids into ``logdir/<kind>.<job>.scp`` and run a command on each.

    Args:
        keys: kind (train, valid, keys) to ids.
        jobs: at most so many parts; never more than there are ids.
        name: of the logs, ``logdir/<name>.<job>.log``.
        command: command line of a job, numbered from 1.

    Returns:
        Number of parts.
    """
    empty = [kind for kind, ids in keys.items() if not ids]
    if empty:
        raise StageError(f"{name}: the list of utterances is empty ({', '.join(empty)})")
    logdir.mkdir(parents=True, exist_ok=True)
    jobs = min(jobs, *(len(ids) for ids in keys.values()))
    for kind, ids in keys.items():
        for job in range(jobs):
            part = ids[job * len(ids) // jobs : (job + 1) * len(ids) // jobs]
            (logdir / f"{kind}.{job + 1}.scp").write_text("".join(f"{i} -\n" for i in part))
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda j: run_logged(command(j), logdir / f"{name}.{j}.log"),
                      range(1, jobs + 1)))  # fmt: skip
    return jobs


def aggregate(o: argparse.Namespace, stats: Path, jobs: int, count: int, sums: bool) -> None:
    """Join the statistics of all parts; append the number of tokens to text shapes.

    Args:
        stats: folder with ``logdir/stats.<job>``.
        count: number of tokens, which batch_type: numel counts with.
        sums: also join sums for global mean and variance.
    """
    inputs = [
        a for j in range(1, jobs + 1) for a in ("--input_dir", f"{stats}/logdir/stats.{j}")
    ]
    run_logged(
        [*espnet(o, "aggregate_stats_dirs"), *inputs, *([] if sums else ["--skip_sum_stats"]),
         "--output_dir", str(stats)],
        stats / "logdir/aggregate.log",
    )  # fmt: skip
    for kind in ("train", "valid"):
        shapes = (stats / kind / "text_shape").read_text().splitlines()
        target = stats / kind / f"text_shape.{o.token_type}"
        target.write_text("".join(f"{line},{count}\n" for line in shapes))


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
