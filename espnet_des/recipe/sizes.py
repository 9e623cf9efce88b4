"""Stage 16: every size of a trained supernet, extracted, decoded, scored, measured and drawn."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from espnet_des.corpus.kaldi import read_table, write_table
from espnet_des.inference.scoring import Errors
from espnet_des.method.layers import ranges
from espnet_des.method.sizes import Sizes, evenly_spaced
from espnet_des.recipe.evaluate import asr_model, decode, decoded_sets, pack, score
from espnet_des.recipe.layout import Layout
from espnet_des.recipe.process import StageError, say
from espnet_des.recipe.slices import write_slices
from espnet_des.utils.files import write_atomically
from espnet_des.utils.markdown import table

# Of a size's cost, what stands in the table of sizes.
COSTS = (
    "model_params", "macs_per_second", "rtf_1_thread", "rtf_all_threads", "model_file_bytes",
)  # fmt: skip
KEPT = "kept layers"  # title of a column


def score_sizes(o: argparse.Namespace, at: Layout) -> None:
    """Make an experiment of every size; write the table of sizes and its pictures.

    Of a supernet with ``sizes: any`` it takes ``--num_sizes`` of all sizes.

    Raises:
        StageError: where it alone is asked for of a model that has one size only.
    """
    from espnet_des.deploy.extract import extract_subnet
    from espnet_des.inference.loading import load_model
    from espnet_des.measure.pictures import plot_all
    from espnet_des.measure.report import report
    from espnet_des.nn.sizes import is_supernet

    config, model_file = at.asr_exp / "config.yaml", asr_model(o, at.asr_exp)
    model, train_args = load_model(config, model_file)
    if not is_supernet(model):
        has_one = f"{config}: encoder: {train_args.encoder} has one size only"
        if o.stage < 16 or o.asr_sh:  # a baseline, of which all stages were asked for
            say(f"{has_one}: there is no table of sizes to make")
            return
        raise StageError(f"{has_one}; stage 16 is for supernets")
    anchors = model.encoder.sizes
    sizes = evenly_spaced(Sizes(anchors, model.encoder.all_sizes), o.num_sizes)
    rows, subnets = [], {}
    for number, size in enumerate(sizes, 1):
        say(f"Size {size} ({number} of {len(sizes)}): extract, decode and score")
        exp = size_exp(at.asr_exp, size)
        try:
            subnets[size] = extract_subnet(config, model_file, size, exp)
        except (ValueError, RuntimeError) as error:
            raise StageError(str(error)) from error
        tag = o.inference_tag
        if o.sizes_decoding == "beam":
            decode(o, at, exp)
        else:
            tag = f"decode_ctc_best_path_asr_model_{Path(o.inference_asr_model).stem}"
            decode_best_path(o, at, exp, tag, size)
        errors = score(o, at, exp, tag)
        # A size between the anchors can be extracted again in seconds; an archive of each
        # would hold the same front end and language model once more.
        if not o.skip_packing and size in anchors:
            pack(o, at, exp)
        rows.append(
            {
                "size": size,
                "kept_layers": model.encoder.kept_layers(size),
                "num_params": model.encoder.count_parameters(size),
                "wer": rates_by_set(errors),
            }
        )
    folders = [Path(o.expdir), at.asr_exp]
    say(f"What each of {len(sizes)} sizes costs, and stage 16's table")
    for row, cost in zip(rows, report(config, model_file, at.asr_exp, subnets=subnets)):
        row.update({key: cost[key] for key in COSTS})
    write_sizes(
        folders, rows, [layer.kind for layer in model.encoder.layers],
        f"{model.options.method}, {model_file}",
        model.tracker.score_spread(model.encoder.scores) if model.selector.learns else None,
    )  # fmt: skip
    about = json.loads((at.asr_exp / "report.json").read_text("utf-8"))["about"]
    write_slices(folders, about, rows)
    for folder in folders:
        plot_all(config, model_file, folder / "images", at.asr_exp / "sizes.json")
    say(
        f"Pictures: {folders[0] / 'images'}; costs: {at.asr_exp / 'report.md'}; to choose a size "
        f"by: {folders[0] / 'slices.json'}"
    )


def rates_by_set(errors: Mapping[str, Errors]) -> dict[str, float]:
    """Percent of each decoded set, by its name as ``--test_sets`` gives it."""
    return {name.removeprefix("org/"): round(e.rate, 2) for name, e in errors.items()}


def size_exp(asr_exp: Path, size: int) -> Path:
    """Experiment of one size, beside that of the supernet."""
    return asr_exp.with_name(f"{asr_exp.name}_size{size}")


def decode_best_path(
    o: argparse.Namespace, at: Layout, exp: Path, tag: str, size: int
) -> None:
    """CTC best-path decoding of every test set, with the extracted model."""
    from espnet_des.inference.best_path import BestPathDecoder
    from espnet_des.inference.loading import load_model
    from espnet_des.inference.transcribe import decode_files, in_processes

    files = exp / "config.yaml", asr_model(o, exp)
    decoder = BestPathDecoder(*load_model(*files))
    wavs = {name: read_table(at.feats / name / "wav.scp") for name in decoded_sets(o)}
    count = sum(map(len, wavs.values()))
    with in_processes(*files, o.inference_nj, count) as batches:
        for name, paths in wavs.items():
            texts = decode_files(decoder, paths, 16, f"size {size}: {name}", batches)
            folder = exp / tag / name
            folder.mkdir(parents=True, exist_ok=True)
            write_table(folder / "text", texts)


def write_sizes(
    folders: list[Path],
    rows: list[dict],
    kinds: list[str],
    title: str,
    spread: float | None,
) -> None:
    """Write ``sizes.md`` and ``sizes.json``, and show the table.

    Args:
        folders: where to write them.
        rows: one object per size.
        kinds: what each layer of the full encoder is.
        title: which model this is.
        spread: highest less lowest score at the end of stage 1; None where none is learned.
    """
    names = list(rows[0]["wer"])
    lines = [f"# Sizes of {title}", "", *table(_results(rows, names, len(kinds)), [KEPT])]
    lines += ["", "Kept layers by kind:", "", *table(_by_kind(rows, kinds))]
    if spread is not None:
        lines += ["", f"Spread of the scores at the end of stage 1: {spread:.4g}"]
    text, as_json = "\n".join(lines) + "\n", json.dumps(rows, indent=2) + "\n"
    for folder in folders:
        write_atomically(folder / "sizes.md", lambda p: p.write_text(text, "utf-8"))
        write_atomically(folder / "sizes.json", lambda p: p.write_text(as_json))
    print(text, end="")
    say(f"Written: sizes.md and sizes.json in {' and '.join(map(str, folders))}")


def _results(rows: list[dict], names: list[str], num_layers: int) -> list[list[str]]:
    """Cells of the first table, its head first."""
    cells = [
        [
            "size", "encoder parameters", "MMAC per s of audio", "RTF, 1 thread",
            *(f"WER {name} (%)" for name in names), KEPT,
        ]
    ]  # fmt: skip
    for row in rows:
        is_full = row["size"] == num_layers
        cells.append(
            [
                str(row["size"]),
                f"{row['num_params']:,}",
                f"{row['macs_per_second'] / 1e6:.1f}",
                f"{row['rtf_1_thread']:.4f}",
                *(f"{row['wer'][name]:.2f}" for name in names),
                "all" if is_full else ranges(row["kept_layers"]),
            ]
        )
    return cells


def _by_kind(rows: list[dict], kinds: list[str]) -> list[list[str]]:
    """Cells of the second table: of each kind of layers, how many a size keeps."""
    cells = [["size", *(f"{kind} (of {kinds.count(kind)})" for kind in dict.fromkeys(kinds))]]
    for row in rows:
        kept = [kinds[layer] for layer in row["kept_layers"]]
        cells.append(
            [str(row["size"]), *(str(kept.count(kind)) for kind in dict.fromkeys(kinds))]
        )
    return cells
