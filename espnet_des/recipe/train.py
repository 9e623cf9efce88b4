"""Stages 10 and 11: statistics and training, by ESPnet's own commands."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from espnet_des.corpus.kaldi import read_table
from espnet_des.errors import ConfigError
from espnet_des.recipe.jobs import (
    aggregate,
    count_lines,
    espnet,
    run_in_parts,
    speech,
    tokens,
)
from espnet_des.recipe.layout import Layout
from espnet_des.recipe.process import StageError, TrainingProgress, run_logged, say
from espnet_des.shrink.options import ShrinkOptions
from espnet_des.utils.files import alone_in, write_atomically


def check_gpus(ngpu: int) -> None:
    """Refuse a training on GPUs that are not there, before the stages that prepare it.

    Raises:
        StageError: with what to do.
    """
    import torch

    found = torch.cuda.device_count() if ngpu else 0
    if found < ngpu:
        raise StageError(
            f"--ngpu {ngpu}: torch finds {found} GPUs here, which is too few to train: give "
            f"--ngpu {found}, or prepare the data only, with --stop_stage 6 or, without a "
            "language model, 10"
        )


def _common(o: argparse.Namespace, at: Layout) -> list[str]:
    if not at.token_list.exists():
        raise StageError(f"{at.token_list} is missing: run stage 5 first")
    return [*tokens(o, at), "--frontend_conf", f"fs={o.fs}"]


def _config(path: str | Path | None) -> list[str]:
    return ["--config", str(path)] if path else []


def _data(o: argparse.Namespace, at: Layout) -> list[str]:
    arguments = []
    for kind, name in (("train", o.train_set), ("valid", o.valid_set)):
        folder = at.feats / name
        if not (folder / "wav.scp").exists():
            raise StageError(f"{folder}/wav.scp is missing: run stages 3 and 4 first")
        for named in (speech(folder), f"{folder / 'text'},text,text"):
            arguments += [f"--{kind}_data_path_and_name_and_type", named]
    return arguments


def collect_stats(o: argparse.Namespace, at: Layout) -> None:
    """Stage 10: lengths of all data, mean and variance of the features."""
    logdir = at.stats / "logdir"
    common = [*espnet(o, "asr_train"), *_config(o.asr_config), *_common(o, at)]
    data = _data(o, at)
    keys = {k: list(read_table(at.feats / s / "wav.scp"))
            for k, s in (("train", o.train_set), ("valid", o.valid_set))}  # fmt: skip
    jobs = run_in_parts(
        keys, o.nj, logdir, "stats",
        lambda job: [
            *common, "--collect_stats", "true", "--ngpu", "0",
            "--train_shape_file", str(logdir / f"train.{job}.scp"),
            "--valid_shape_file", str(logdir / f"valid.{job}.scp"),
            "--output_dir", str(logdir / f"stats.{job}"),
            *data, *shlex.split(o.asr_args),
        ],
    )  # fmt: skip
    sums = o.feats_normalize == "global_mvn"
    aggregate(o, at.stats, jobs, count_lines(at.token_list), sums)


def train(o: argparse.Namespace, at: Layout) -> None:
    """Stage 11: train through espnet2.bin.asr_train; resumes where it stopped."""
    shapes = [at.stats / k / f for k in ("train", "valid")
              for f in ("speech_shape", f"text_shape.{o.token_type}")]  # fmt: skip
    if not all(p.exists() for p in shapes):
        raise StageError(f"{at.stats} has no statistics: run stage 10 first")
    normalize = []
    if o.feats_normalize == "global_mvn":
        stats = at.stats / "train" / "feats_stats.npz"
        normalize = ["--normalize", "global_mvn", "--normalize_conf", f"stats_file={stats}"]
    options = [
        *_common(o, at), *launch(o),
        "--train_shape_file", str(shapes[0]), "--train_shape_file", str(shapes[1]),
        "--valid_shape_file", str(shapes[2]), "--valid_shape_file", str(shapes[3]),
        "--fold_length", str(o.asr_speech_fold_length * 100),
        "--fold_length", str(o.asr_text_fold_length),
        "--resume", "true",
        *(["--init_param", *o.pretrained_model.split()] if o.pretrained_model else []),
        "--ignore_init_mismatch", str(o.ignore_init_mismatch).lower(),
        *normalize, *_data(o, at), *shlex.split(o.asr_args),
    ]  # fmt: skip
    config = shrink_config(o, at.asr_exp, options) if o.shrink else o.asr_config
    if not o.shrink or config is not None:
        train_asr(espnet(o, "asr_train"), config, options, at.asr_exp)


def shrink_config(o: argparse.Namespace, exp: Path, options: Sequence[str]) -> Path | None:
    """Config of a supernet that goes on from the trained model of ``--shrink``.

    None where it needs no training, and stands in its place.

    Args:
        options: of ``asr_train``, with the recipe's data.
    """
    from espnet_des.shrink.original import files_of, read_original
    from espnet_des.shrink.prepare import UNTRAINED, needs_training, prepare

    given = Path(o.shrink)
    files: tuple[Path | None, Path | None, Path | None] = (None, None, given)
    if given.is_dir():
        files = (given / "config.yaml", given / o.inference_asr_model, None)
    try:
        with files_of(exp, *files) as found:
            chosen = ShrinkOptions.of_words(shlex.split(o.shrink_args))
            config = prepare(read_original(*found), exp, chosen, options)
    except ConfigError as error:
        raise StageError(str(error)) from error
    if needs_training(config):
        return config
    name = exp / o.inference_asr_model
    write_atomically(name, lambda link: link.symlink_to(UNTRAINED))
    say(f"Ranked without training: {name}")
    return None


def train_asr(
    program: Sequence[str], config: str | Path | None, options: Sequence[str], exp: Path
) -> None:
    """Run ESPnet's ``asr_train`` in the folder of an experiment.

    Args:
        program: beginning of its command line.
    """
    run_training([*program, *_config(config), *options, "--output_dir", str(exp)], exp)


def launch(o: argparse.Namespace) -> list[str]:
    """On the CPU, on one GPU, or on several of this machine."""
    several = ["--multiprocessing_distributed", "true"] if o.ngpu > 1 else []
    return ["--ngpu", str(o.ngpu), *several]


def run_training(command: list[str], exp: Path) -> None:
    """Run a training with its log in ``exp/train.log``; earlier logs are kept.

    Raises:
        RuntimeError: where it fails, or another one runs in this folder.
    """
    log = exp / "train.log"
    with alone_in(exp, "training") as lock:
        if log.exists():
            log.replace(_next_free(log))
        progress = TrainingProgress(exp / "config.yaml")
        say(f"Training; log: {log}")
        try:
            # It holds the lock itself: where this process is killed it lives a little longer.
            run_logged(command, log, progress, [lock.fileno()])
        finally:
            progress.close()


def _next_free(log: Path) -> Path:
    """Name under which an earlier log is kept: train.1.log, train.2.log, ..."""
    number = 1
    while (path := log.with_suffix(f".{number}.log")).exists():
        number += 1
    return path
