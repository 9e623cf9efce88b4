"""Stages 6 to 8: the language model, by ESPnet's own commands."""

import argparse
import shlex
from pathlib import Path

from espnet_des.corpus.kaldi import read_table
from espnet_des.recipe.jobs import aggregate, count_lines, espnet, run_in_parts, tokens
from espnet_des.recipe.layout import Layout
from espnet_des.recipe.process import StageError, run_logged, say
from espnet_des.recipe.train import launch, run_training


def _common(o: argparse.Namespace, at: Layout) -> list:
    for path, stage in ((at.token_list, 5), (at.lm_train, 4), (at.lm_dev, 3)):
        if not path.exists():
            raise StageError(f"{path} is missing: run stage {stage} first")
    config = ["--config", o.lm_config] if o.lm_config else []
    return [*espnet(o, "lm_train"), *tokens(o, at), *config]


def collect_stats(o: argparse.Namespace, at: Layout) -> None:
    """Stage 6: lengths of the texts."""
    logdir, common = at.lm_stats / "logdir", _common(o, at)
    keys = {"train": list(read_table(at.lm_train)), "dev": list(read_table(at.lm_dev))}
    jobs = run_in_parts(
        keys, o.nj, logdir, "stats",
        lambda job: [
            *common, "--collect_stats", "true", "--ngpu", "0",
            "--train_data_path_and_name_and_type", f"{at.lm_train},text,text",
            "--valid_data_path_and_name_and_type", f"{at.lm_dev},text,text",
            "--train_shape_file", str(logdir / f"train.{job}.scp"),
            "--valid_shape_file", str(logdir / f"dev.{job}.scp"),
            "--output_dir", str(logdir / f"stats.{job}"), *shlex.split(o.lm_args),
        ],
    )  # fmt: skip
    aggregate(o, at.lm_stats, jobs, count_lines(at.token_list), sums=True)


def train(o: argparse.Namespace, at: Layout) -> None:
    """Stage 7: train the language model; resumes where it stopped."""
    shape = f"text_shape.{o.token_type}"
    if not (at.lm_stats / "train" / shape).exists():
        raise StageError(f"{at.lm_stats} has no statistics: run stage 6 first")
    run_training(
        [
            *_common(o, at), *launch(o),
            "--train_data_path_and_name_and_type", f"{at.lm_train},text,text",
            "--valid_data_path_and_name_and_type", f"{at.lm_dev},text,text",
            "--train_shape_file", str(at.lm_stats / "train" / shape),
            "--valid_shape_file", str(at.lm_stats / "valid" / shape),
            "--fold_length", str(o.lm_fold_length), "--resume", "true",
            "--output_dir", str(at.lm_exp), *shlex.split(o.lm_args),
        ],
        at.lm_exp,
    )  # fmt: skip


def perplexity(o: argparse.Namespace, at: Layout) -> None:
    """Stage 8: perplexity of the first test set."""
    model = lm_model(o, at)
    text, out = at.lm_test, at.lm_exp / "perplexity_test"
    run_logged(
        [
            *espnet(o, "lm_calc_perplexity"), "--ngpu", "0",
            "--data_path_and_name_and_type", f"{text},text,text",
            "--train_config", str(at.lm_exp / "config.yaml"), "--model_file", str(model),
            "--output_dir", str(out),
        ],
        out / "lm_calc_perplexity.log",
    )  # fmt: skip
    say(f"PPL: {text}: {(out / 'ppl').read_text().strip()}")


def lm_model(o: argparse.Namespace, at: Layout) -> Path:
    model = at.lm_exp / o.inference_lm
    if not model.exists():
        raise StageError(f"{model} is missing: run stage 7 first (or --use_lm false)")
    return model
