"""Shrink a trained model: prepare, train by ESPnet's own command, extract and measure."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_des.deploy.extract import extract_subnet
from espnet_des.inference.loading import load_model, read_config
from espnet_des.measure.report import report
from espnet_des.recipe.process import say
from espnet_des.recipe.train import train_asr
from espnet_des.shrink.options import ShrinkOptions
from espnet_des.shrink.original import files_of, read_original
from espnet_des.shrink.prepare import UNTRAINED, needs_training, prepare


def shrink(
    output_dir: Path,
    asr_train_config: Path | None = None,
    asr_model_file: Path | None = None,
    model_file: Path | None = None,
    training: Sequence[str] = (),
    **options: Any,
) -> None:
    """Make a supernet of a trained model, and a model of each of its sizes.

    Stopped and started again it goes on. The supernet and its log are in ``output_dir``, with
    ``report.md``, which tells what each size costs; a size is in ``<output_dir>_size<size>``.

    Args:
        output_dir: of the supernet's training.
        asr_train_config, asr_model_file: of the trained model.
        model_file: in place of both, a model that ESPnet packed.
        training: more options of ``asr_train``.
        **options: see :class:`ShrinkOptions`.

    Raises:
        ConfigError: naming the option, its value and what would be right; nothing is written.
        RuntimeError: where the training fails.
    """
    chosen = ShrinkOptions(**options)
    if not Path(output_dir).name:  # the folder that this was started in has a name, too
        output_dir = Path(output_dir).resolve()
    with files_of(output_dir, asr_train_config, asr_model_file, model_file) as files:
        config = prepare(read_original(*files), output_dir, chosen, training)
    if needs_training(config):
        leaves_gpu_idle(training)
        program = [sys.executable, "-m", "espnet_des", "-m", "espnet2.bin.asr_train"]
        train_asr(program, config, ["--resume", "true", *training], output_dir)
        config, trained = output_dir / "config.yaml", averaged_model(output_dir)
    else:
        trained = output_dir / UNTRAINED
    supernet, _ = load_model(config, trained)
    subnets = {}
    for size in supernet.encoder.sizes:
        folder = output_dir.with_name(f"{output_dir.name}_size{size}")
        subnets[size] = extract_subnet(config, trained, size, folder)
        say(f"Size {size}: {subnets[size]}")
    if supernet.ctc is None:  # the best path is CTC's
        say("The sizes are not measured: the model has no CTC")
        return
    report(config, trained, output_dir, subnets=subnets)


def leaves_gpu_idle(training: Sequence[str]) -> bool:
    """Tell of a GPU that the training will not use; asr_train would say nothing."""
    is_told = any(word.partition("=")[0] == "--ngpu" for word in training)
    if is_told or not torch.cuda.is_available():
        return False
    say("This trains on the CPU, as asr_train does by default: --ngpu 1 takes a GPU")
    return True


def averaged_model(folder: Path) -> Path:
    """The averaged model of a training, by the last of its criteria that has one."""
    criteria = read_config(folder / "config.yaml")["best_model_criterion"]
    for phase, key, _ in reversed(criteria):
        file = folder / f"{phase}.{key}.ave.pth"
        if file.exists():
            return file
    raise RuntimeError(
        f"{folder} has no averaged model: see train.log; give a larger share, so that whole "
        "epochs lie in stage 2"
    )
