"""Stage 16: every size of a trained supernet, decoded and scored."""

import argparse
import json
from pathlib import Path
from typing import Dict, List

from espnet_des.corpus.kaldi import read_table, write_table
from espnet_des.recipe.layout import Layout
from espnet_des.recipe.process import StageError, say
from espnet_des.scoring import count_errors


def score_sizes(o: argparse.Namespace, at: Layout) -> None:
    """Decode the test sets at every size; write the table of sizes."""
    from espnet_des.decode import BestPathDecoder, decode_files, load_model

    config, model_file = at.asr_exp / "config.yaml", at.asr_exp / o.inference_asr_model
    if not model_file.exists():
        raise StageError(
            f"{model_file} is missing: run stage 11 first. Only whole stage-2 epochs are "
            f"averaged; {at.asr_exp}/train.log says if there was none. Another file can be "
            "named with --inference_asr_model"
        )
    model, train_args = load_model(config, model_file)
    if not hasattr(model, "set_size"):
        raise StageError(f"{config}: encoder: {train_args.encoder} has one size only")
    if not model.state.is_frozen:
        raise StageError(
            f"{model_file} is of stage 1, in which the layers are not chosen yet"
        )
    decoder = BestPathDecoder(model, train_args)
    rows = []
    for size in model.encoder.sizes:
        model.set_size(size)
        wer = {}
        for name in o.test_sets.split():
            folder = at.asr_exp / f"decode_best_path_size{size}" / name
            texts = decode_files(
                decoder, read_table(at.feats / name / "wav.scp"), 16, f"size {size}: {name}"
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_table(folder / "text", texts)
            errors = count_errors(read_table(at.feats / name / "text"), texts)
            wer[name] = round(errors.wer, 2)
        rows.append(
            {
                "size": size,
                "kept_layers": model.encoder.kept_layers(size),
                "num_params": model.encoder.count_parameters(size),
                "wer": wer,
            }
        )
    spread = model.tracker.score_spread()
    write_sizes([Path(o.expdir), at.asr_exp], rows, [layer.kind for layer in model.encoder.layers],
                f"{model.options.method}, {model_file}", spread)  # fmt: skip


def write_sizes(
    folders: List[Path], rows: List[Dict], kinds: List[str], title: str, spread: float
) -> None:
    """Write ``sizes.md`` and ``sizes.json``, and show the table.

    Args:
        folders: where to write them.
        rows: one object per size.
        kinds: what each layer of the full encoder is.
        title: which model this is.
        spread: highest less lowest score at the end of stage 1.
    """
    names = list(rows[0]["wer"])
    lines = [
        f"# Sizes of {title}",
        "",
        "| size | encoder parameters | " + " | ".join(f"WER {n} (%)" for n in names)
        + " | kept layers |",
        "|---:|---:|" + "---:|" * len(names) + "---|",
    ]
    for row in rows:
        wers = " | ".join(f"{row['wer'][n]:.2f}" for n in names)
        kept = "all" if row["size"] == len(kinds) else ranges(row["kept_layers"])
        lines.append(f"| {row['size']} | {row['num_params']:,} | {wers} | {kept} |")
    lines += ["", "Kept layers by kind:", ""]
    for row in rows:
        counts = {k: 0 for k in kinds}
        for layer in row["kept_layers"]:
            counts[kinds[layer]] += 1
        of_kind = ", ".join(f"{n} of {kinds.count(k)} {k}" for k, n in counts.items())
        lines.append(f"- size {row['size']}: {of_kind}")
    lines += ["", f"Spread of the scores at the end of stage 1: {spread:.4g}"]
    for folder in folders:
        (folder / "sizes.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "sizes.json").write_text(json.dumps(rows, indent=2) + "\n")
    print("\n".join(lines))
    say(f"Written: sizes.md and sizes.json in {' and '.join(map(str, folders))}")


def ranges(numbers: List[int]) -> str:
    """``[1, 2, 3, 7]`` as ``1-3 7``."""
    pieces: List[List[int]] = []
    for n in numbers:
        if pieces and pieces[-1][-1] == n - 1:
            pieces[-1].append(n)
        else:
            pieces.append([n])
    return " ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in pieces)
