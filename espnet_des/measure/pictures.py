"""Pictures of a trained supernet: kept layers, scores, WER of the sizes."""

import logging
from pathlib import Path

import numpy

from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model
from espnet_des.method.tracker import History
from espnet_des.nn.sizes import is_supernet
from espnet_des.plot.kept import draw_kept_layers
from espnet_des.plot.scores import draw_scores
from espnet_des.plot.style import save
from espnet_des.plot.wer import draw_wer, left_out, read_sizes
from espnet_des.training.score_log import read_history


def plot_all(
    asr_train_config: Path,
    asr_model_file: Path,
    output_dir: Path,
    sizes_json: Path | None = None,
) -> list[Path]:
    """Draw ``kept_layers.png``, ``scores.png`` and ``wer.png``.

    A picture whose data are not there is left out, with a notice in the log.

    Args:
        asr_train_config: ``config.yaml`` of the training; its scores are in
            ``tensorboard/train`` beside it.
        asr_model_file: a checkpoint of it.
        output_dir: where to write; made if it is not there.
        sizes_json: what stage 16 of the recipes measured; by default the
            ``sizes.json`` beside the config, if there is one.

    Returns:
        The files written.

    Raises:
        ConfigError: where the model or ``sizes_json`` cannot be read, or they
            do not belong together.
    """
    config, output_dir = Path(asr_train_config), Path(output_dir)
    if sizes_json is None and (config.parent / "sizes.json").exists():
        sizes_json = config.parent / "sizes.json"
    rows = None if sizes_json is None else read_sizes(Path(sizes_json))
    model, train_args = load_model(config, asr_model_file)
    if not is_supernet(model):
        raise ConfigError(
            f"asr_train_config: {config}: encoder: {train_args.encoder} has one size only; "
            "give the config.yaml of a supernet"
        )
    if rows is not None and sizes_json is not None:
        _check_rows(rows, sizes_json, model)

    output_dir.mkdir(parents=True, exist_ok=True)
    encoder, state = model.encoder, model.state
    progress = "" if state.is_frozen else ", stage 1 has not ended"
    of_model = f" ({model.selector.title}{progress})"
    figures = {
        "kept_layers.png": draw_kept_layers(
            encoder.units, encoder.ranking(), encoder.sizes,
            f"Layers that each size keeps{of_model}",
            [len(encoder.kept_units(size)) for size in encoder.sizes],
        )
    }  # fmt: skip
    try:
        if not model.selector.learns:
            raise ConfigError("the order of the layers was given, nothing was learned")
        history = read_history(config.parent / "tensorboard" / "train")
        _check_history(history, model)
    except ConfigError as error:
        logging.warning(f"scores.png is left out: {error}")
    else:
        figures["scores.png"] = draw_scores(
            history, encoder.units, encoder.kept_units(encoder.sizes[0]),
            model.selector, state.get_schedule(),
            f"Scores of the layers in stage 1{of_model}", encoder.sizes[0],
        )  # fmt: skip
    if rows is None:
        logging.warning(
            f"wer.png is left out: no sizes_json was given, and {config.parent} has no "
            "sizes.json; stage 16 of a recipe writes it"
        )
    else:
        for key in left_out(rows):
            logging.warning(
                f"wer.png: a panel is left out: {sizes_json} does not give {key} for every size"
            )
        figures["wer.png"] = draw_wer(rows, f"WER of each size{of_model}")
    for name, figure in figures.items():
        save(figure, output_dir / name)
        print(output_dir / name)
    return [output_dir / name for name in figures]


def _check_rows(rows, path: Path, model) -> None:
    """Refuse the measurements of another training."""
    encoder = model.encoder
    sizes = [row["size"] for row in rows]
    if not set(sizes) <= set(encoder.all_sizes):
        raise ConfigError(
            f"sizes_json: {path} has sizes {sizes}, the model {encoder.all_sizes}: it is of "
            "another training; give the sizes.json of this one"
        )
    for row in rows:
        kept = encoder.kept_layers(row["size"])
        if row.get("kept_layers", kept) != kept:
            raise ConfigError(
                f"sizes_json: {path} keeps layers {row['kept_layers']} at size "
                f"{row['size']}, the model {kept}: it is of another training; give the "
                "sizes.json of this one"
            )


def _check_history(history: History, model) -> None:
    """Refuse scores that did not lead to this model."""
    scores = model.selector.of_layers(model.encoder.scores.detach().double()).numpy()
    last = model.state.get_schedule().last_update + 1
    fits = history.scores.shape[1] == scores.size and history.updates[-1] <= last
    if fits and model.state.is_frozen and history.updates[-1] == last:
        fits = numpy.allclose(history.scores[-1], scores, rtol=1e-4, atol=1e-6)
    if not fits:
        raise ConfigError(
            "the scores in its tensorboard folder end otherwise than those of the model: "
            "they are of another training in the same folder"
        )
