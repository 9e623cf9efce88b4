"""Run the stages that were asked for, in order."""

import argparse
import sys
import time
from collections.abc import Callable

from espnet_des.recipe import data, evaluate, lm, sizes, train
from espnet_des.recipe.layout import Layout, layout
from espnet_des.recipe.options import parse
from espnet_des.recipe.process import StageError, say

STAGES: dict[int, tuple[str, Callable[[argparse.Namespace, Layout], None]]] = {
    1: ("Data preparation", data.prepare),
    2: ("Speed perturbation", data.perturb),
    3: ("Format wav.scp", data.format_audio),
    4: ("Remove long/short data", data.filter_length),
    5: ("Generate token list", data.make_tokens),
    6: ("LM collect stats", lm.collect_stats),
    7: ("LM training", lm.train),
    8: ("LM perplexity", lm.perplexity),
    10: ("ASR collect stats", train.collect_stats),
    11: ("ASR training", train.train),
    12: ("Decoding", evaluate.decode),
    13: ("Scoring", evaluate.score_stage),
    14: ("Pack model", evaluate.pack),
    16: ("Sizes: extract, decode, score, measure and draw every size", sizes.score_sizes),
}
TRAININGS = {7, 11}


def skipped(o: argparse.Namespace) -> set[int]:
    """Stages that the --skip_* options leave out, as in asr.sh."""
    out = {int(stage) for stage in o.skip_stages.split()}
    for is_on, stages in (
        (o.skip_data_prep, range(1, 6)),
        (o.skip_train, (2, 4, 5, 6, 7, 8, 9, 10, 11)),
        (not o.use_lm, (6, 7, 8)),
        (o.skip_eval, (12, 13)),
        (o.skip_packing, (14,)),
        (o.skip_sizes, (16,)),
    ):
        out |= set(stages) if is_on else set()
    return out


def main(argv: list[str]) -> int:
    """Parse the command line and run; returns the exit code."""
    o = parse(argv)
    if o.only_check:
        return 0
    begin = time.monotonic()
    try:
        run(o, layout(o))
    except StageError as error:
        print(error, file=sys.stderr)
        return 1
    say(f"Successfully finished. [elapsed={time.monotonic() - begin:.0f}s]")
    return 0


def run(o: argparse.Namespace, at: Layout) -> None:
    """Run the stages that were asked for.

    Raises:
        StageError: naming the stage that stopped; before all of them where no GPU is there.
    """
    out = skipped(o)
    stages = [n for n in STAGES if n not in out and o.stage <= n <= o.stop_stage]
    if TRAININGS & set(stages):
        train.check_gpus(o.ngpu)
    for number in stages:
        title, stage = STAGES[number]
        say(f"Stage {number}: {title}")
        try:
            stage(o, at)
        except (RuntimeError, ValueError, OSError) as error:  # ours, and of the libraries
            raise StageError(f"Stage {number} ({title}) stopped:\n{error}") from error
