"""Shrink a trained model: prepare, train by ESPnet's own command, extract and measure."""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from espnet_des.deploy.extract import extract_subnet
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model, read_config
from espnet_des.measure.report import report
from espnet_des.recipe.process import say
from espnet_des.recipe.train import run_training
from espnet_des.shrink.options import ShrinkOptions
from espnet_des.shrink.original import read_original, unpacked
from espnet_des.shrink.prepare import UNTRAINED, prepare

ORIGINAL = "original"  # folder of an archive's content


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
    with files_of(output_dir, asr_train_config, asr_model_file, model_file) as files:
        config = prepare(read_original(*files), output_dir, chosen, training)
    if chosen.share:
        run_training(
            [sys.executable, "-m", "espnet_des", "-m", "espnet2.bin.asr_train", "--config",
             str(config), "--resume", "true", "--output_dir", str(output_dir), *training],
            output_dir,
        )  # fmt: skip
        config, trained = output_dir / "config.yaml", averaged_model(output_dir)
    else:
        trained = output_dir / UNTRAINED
    supernet, _ = load_model(config, trained)
    subnets = {}
    for size in supernet.encoder.sizes:
        folder = output_dir.with_name(f"{output_dir.name}_size{size}")
        subnets[size] = extract_subnet(config, trained, size, folder)
        say(f"Size {size}: {subnets[size]}")
    report(config, trained, output_dir, subnets=subnets)


@contextlib.contextmanager
def files_of(
    output_dir: Path, config: Path | None, model: Path | None, archive: Path | None
) -> Iterator[tuple[Path, Path]]:
    """Config and model file of the original.

    An archive is unpacked into ``output_dir``; it is gone again where the block fails.
    """
    is_pair = config is not None and model is not None
    if is_pair == (archive is not None) or (config is None) != (model is None):
        raise ConfigError(
            "asr_train_config: give it together with asr_model_file, or model_file alone, which "
            "is a model that ESPnet packed"
        )
    if config is not None and model is not None:
        yield config, model
        return
    assert archive is not None, "just checked"
    # The config names files by where they are, so they are put into their place at once.
    made = [folder for folder in (output_dir, output_dir / ORIGINAL) if not folder.exists()]
    try:
        yield unpacked(archive, output_dir / ORIGINAL)
    except BaseException:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


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
