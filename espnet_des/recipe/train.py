"""Stages 10 and 11: statistics and training, by ESPnet's own commands."""

import argparse
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List

from espnet_des.corpus.kaldi import read_table
from espnet_des.recipe.layout import Layout
from espnet_des.recipe.process import StageError, TrainingProgress, run_logged, say


def _common(o: argparse.Namespace, at: Layout) -> List[str]:
    if not at.token_list.exists():
        raise StageError(f"{at.token_list} is missing: run stage 5 first")
    return [
        *shlex.split(o.python), "-m", "espnet2.bin.asr_train",
        "--use_preprocessor", "true",
        "--bpemodel", str(at.bpe_model) if o.token_type == "bpe" else "none",
        "--token_type", o.token_type, "--token_list", str(at.token_list),
        "--non_linguistic_symbols", o.nlsyms_txt, "--cleaner", o.cleaner, "--g2p", o.g2p,
        *(["--config", o.asr_config] if o.asr_config else []),
        "--frontend_conf", f"fs={o.fs}",
    ]  # fmt: skip


def _data(o: argparse.Namespace, at: Layout) -> List[str]:
    arguments = []
    for kind, name in (("train", o.train_set), ("valid", o.valid_set)):
        folder = at.feats / name
        if not (folder / "wav.scp").exists():
            raise StageError(f"{folder}/wav.scp is missing: run stages 3 and 4 first")
        for file, key, form in (("wav.scp", "speech", "sound"), ("text", "text", "text")):
            option = f"--{kind}_data_path_and_name_and_type"
            arguments += [option, f"{folder / file},{key},{form}"]
    return arguments


def collect_stats(o: argparse.Namespace, at: Layout) -> None:
    """Stage 10: lengths of all data, mean and variance of the features."""
    logdir = at.stats / "logdir"
    logdir.mkdir(parents=True, exist_ok=True)
    keys = {k: list(read_table(at.feats / s / "wav.scp"))
            for k, s in (("train", o.train_set), ("valid", o.valid_set))}  # fmt: skip
    jobs = min(o.nj, *(len(utts) for utts in keys.values()))
    for kind, utts in keys.items():
        for job in range(jobs):
            part = utts[job * len(utts) // jobs : (job + 1) * len(utts) // jobs]
            (logdir / f"{kind}.{job + 1}.scp").write_text("".join(f"{u} -\n" for u in part))

    def run(job: int) -> None:
        run_logged(
            [
                *_common(o, at), "--collect_stats", "true", "--ngpu", "0",
                "--train_shape_file", str(logdir / f"train.{job}.scp"),
                "--valid_shape_file", str(logdir / f"valid.{job}.scp"),
                "--output_dir", str(logdir / f"stats.{job}"),
                *_data(o, at), *shlex.split(o.asr_args),
            ],
            logdir / f"stats.{job}.log",
        )  # fmt: skip

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, range(1, jobs + 1)))
    inputs = [a for j in range(1, jobs + 1) for a in ("--input_dir", f"{logdir}/stats.{j}")]
    skip = [] if o.feats_normalize == "global_mvn" else ["--skip_sum_stats"]
    run_logged(
        [*shlex.split(o.python), "-m", "espnet2.bin.aggregate_stats_dirs", *inputs, *skip,
         "--output_dir", str(at.stats)],
        logdir / "aggregate.log",
    )  # fmt: skip
    # The number of tokens, which batch_type: numel counts with.
    count = len(at.token_list.read_text(encoding="utf-8").splitlines())
    for kind in ("train", "valid"):
        shapes = (at.stats / kind / "text_shape").read_text().splitlines()
        target = at.stats / kind / f"text_shape.{o.token_type}"
        target.write_text("".join(f"{line},{count}\n" for line in shapes))


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
    log = at.asr_exp / "train.log"
    if log.exists():
        log.replace(_next_free(log))
    progress = TrainingProgress()
    say(f"Training; log: {log}")
    try:
        run_logged(
            [
                *_common(o, at),
                "--ngpu", str(o.ngpu),
                *(["--multiprocessing_distributed", "true"] if o.ngpu > 1 else []),
                "--train_shape_file", str(shapes[0]), "--train_shape_file", str(shapes[1]),
                "--valid_shape_file", str(shapes[2]), "--valid_shape_file", str(shapes[3]),
                "--fold_length", str(o.asr_speech_fold_length * 100),
                "--fold_length", str(o.asr_text_fold_length),
                "--resume", "true",
                *(["--init_param", *o.pretrained_model.split()] if o.pretrained_model else []),
                "--ignore_init_mismatch", str(o.ignore_init_mismatch).lower(),
                "--output_dir", str(at.asr_exp),
                *normalize, *_data(o, at), *shlex.split(o.asr_args),
            ],
            log,
            progress,
        )  # fmt: skip
    finally:
        progress.close()


def _next_free(log: Path) -> Path:
    """Name under which an earlier log is kept: train.1.log, train.2.log, ..."""
    number = 1
    while (path := log.with_suffix(f".{number}.log")).exists():
        number += 1
    return path
