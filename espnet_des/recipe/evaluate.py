"""Stages 12 to 14: beam search, scoring and packing, by ESPnet's own commands."""

import argparse
import shlex
from pathlib import Path

from espnet_des.corpus.kaldi import read_table, write_table
from espnet_des.inference.scoring import Errors, text_cleaner, write_scores
from espnet_des.recipe.jobs import espnet, run_in_parts, speech
from espnet_des.recipe.layout import Layout
from espnet_des.recipe.lm import lm_model
from espnet_des.recipe.process import StageError, run_logged, say


def decoded_sets(o: argparse.Namespace) -> list[str]:
    valid = [f"org/{o.valid_set}"] if o.eval_valid_set else []
    return valid + o.test_sets.split()


def asr_model(o: argparse.Namespace, exp: Path) -> Path:
    model = exp / o.inference_asr_model
    if not model.exists():
        raise StageError(
            f"{model} is missing: run stage 11 first. Of a supernet only whole stage-2 "
            f"epochs are averaged; {exp}/train.log says if there was none. Another file "
            "can be named with --inference_asr_model"
        )
    return model


def decode(o: argparse.Namespace, at: Layout, exp: Path | None = None) -> None:
    """Stage 12: espnet2.bin.asr_inference over every test set."""
    exp = exp or at.asr_exp
    model = asr_model(o, exp)
    lm = []
    if o.use_lm:
        lm = ["--lm_train_config", str(at.lm_exp / "config.yaml"),
              "--lm_file", str(lm_model(o, at))]  # fmt: skip
    for name in decoded_sets(o):
        scp = at.feats / name / "wav.scp"
        out = exp / o.inference_tag / name
        logdir = out / "logdir"
        say(f"Beam search over {name}; log: {logdir}/asr_inference.*.log")
        jobs = run_in_parts(
            {"keys": list(read_table(scp))}, o.inference_nj, logdir, "asr_inference",
            lambda job: [
                *espnet(o, "asr_inference"), "--batch_size", str(o.batch_size), "--ngpu", "0",
                *(["--config", o.inference_config] if o.inference_config else []),
                "--data_path_and_name_and_type", speech(at.feats / name),
                "--key_file", str(logdir / f"keys.{job}.scp"),
                "--asr_train_config", str(exp / "config.yaml"), "--asr_model_file", str(model),
                "--output_dir", str(logdir / f"output.{job}"), *lm,
                *shlex.split(o.inference_args),
            ],
        )  # fmt: skip
        for file in ("token", "token_int", "score", "text"):
            parts = [logdir / f"output.{j}/1best_recog/{file}" for j in range(1, jobs + 1)]
            rows = [line for part in parts if part.exists()
                    for line in part.read_text(encoding="utf-8").splitlines()]  # fmt: skip
            table = dict(line.partition(" ")[::2] for line in rows)
            write_table(out / file, table)


def score_stage(o: argparse.Namespace, at: Layout) -> None:
    """Stage 13: score what stage 12 has decoded, and show it."""
    score(o, at, at.asr_exp, o.inference_tag)
    print((at.asr_exp / "RESULTS.md").read_text(encoding="utf-8"))


def score(o: argparse.Namespace, at: Layout, exp: Path, tag: str) -> dict:
    """Character, word and token errors of every decoded set of an experiment.

    Returns:
        Set name to word errors.
    """
    rows: dict[str, dict[str, Errors]] = {"WER": {}, "CER": {}, "TER": {}}
    cleaners = [text_cleaner(name) for name in (o.cleaner, o.hyp_cleaner)]
    for name in decoded_sets(o):
        data, folder = at.feats / name, exp / tag / name
        if not (folder / "text").exists():
            raise StageError(f"{folder}/text is missing: run stage 12 first")
        texts = [
            {utt: cleaner(words) for utt, words in read_table(path / "text").items()}
            for path, cleaner in zip((data, folder), cleaners)
        ]
        lacking = [utt for utt in texts[0] if utt not in texts[1]]
        if lacking:
            raise StageError(
                f"{folder}/text lacks {len(lacking)} of {len(texts[0])} utterances "
                f"({lacking[0]}, ...): decode it again"
            )
        texts[1] = {utt: texts[1][utt] for utt in texts[0]}
        speakers = read_table(data / "utt2spk")
        for kind, split in unit_splitters(o, at).items():
            ref, hyp = ({u: " ".join(split(t)) for u, t in part.items()} for part in texts)
            target = folder / f"score_{kind.lower()}"
            rows[kind][f"{tag}/{name}"] = write_scores(target, ref, hyp, speakers)
    write_results(exp, rows)
    return {name: rows["WER"][f"{tag}/{name}"] for name in decoded_sets(o)}


def unit_splitters(o: argparse.Namespace, at: Layout) -> dict:
    """How a text is cut into the units that are counted."""
    from espnet2.text.build_tokenizer import build_tokenizer

    units = {"CER": "char", "WER": "word"}
    found = {
        kind: build_tokenizer(
            token_type=unit, remove_non_linguistic_symbols=True,
            non_linguistic_symbols=None if o.nlsyms_txt == "none" else o.nlsyms_txt,
        ).text2tokens
        for kind, unit in units.items()
    }  # fmt: skip
    if o.token_type == "bpe" and at.bpe_model.exists():
        model = str(at.bpe_model)
        found["TER"] = build_tokenizer(token_type="bpe", bpemodel=model).text2tokens
    return found


def write_results(exp: Path, rows: dict[str, dict[str, Errors]]) -> None:
    """``RESULTS.md`` with the columns of ESPnet's show_asr_result.sh."""
    import torch

    import espnet2

    lines = [
        "# RESULTS", "## Environments",
        f"- espnet2 version: `espnet2 {espnet2.__version__}`",
        f"- pytorch version: `pytorch {torch.__version__}`", "", f"## {exp}",
    ]  # fmt: skip
    for kind, found in rows.items():
        if not found:
            continue
        lines += [f"### {kind}", "", "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|",
                  "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for name, e in found.items():
            counts = (e.words - e.substitutions - e.deletions, e.substitutions, e.deletions,
                      e.insertions, e.substitutions + e.deletions + e.insertions)  # fmt: skip
            shares = "|".join(f"{100.0 * c / max(1, e.words):.1f}" for c in counts)
            wrong = 100.0 * e.wrong / max(1, e.utterances)
            lines.append(f"|{name}|{e.utterances}|{e.words}|{shares}|{wrong:.1f}|")
        lines.append("")
    (exp / "RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def pack(o: argparse.Namespace, at: Layout, exp: Path | None = None) -> None:
    """Stage 14: config, model and what they need as one zip file."""
    exp = exp or at.asr_exp
    model = asr_model(o, exp)
    target = exp / f"{exp.name}_{model.name.removesuffix('.pth')}.zip"
    lm, options = [], []
    if o.use_lm:
        lm = ["--lm_train_config", str(at.lm_exp / "config.yaml"),
              "--lm_file", str(lm_model(o, at))]  # fmt: skip
        options.append(at.lm_exp / "perplexity_test/ppl")
    if o.feats_normalize == "global_mvn":
        options.append(at.stats / "train/feats_stats.npz")
    if o.token_type == "bpe":
        options.append(at.bpe_model)
    options += [p for p in (exp / "RESULTS.md", exp / "images") if p.exists()]
    run_logged(
        [
            *espnet(o, "pack"), "asr", "--asr_train_config", str(exp / "config.yaml"),
            "--asr_model_file", str(model), *lm,
            *(a for p in options for a in ("--option", str(p))), "--outpath", str(target),
        ],
        exp / "pack.log",
    )  # fmt: skip
    say(f"Packed: {target}")
