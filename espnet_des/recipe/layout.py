"""Where asr.sh puts things."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Directory and file names of one run.

    Attributes:
        data: Kaldi-style directories of stage 1.
        feats: formatted data of stage 3 and 4.
        token_list: one token a line.
        bpe_prefix: of the sentencepiece model.
        stats: of stage 10.
        asr_exp: experiment of stage 11.
        lm_stats: of stage 6.
        lm_exp: experiment of stage 7.
        lm_train: text of the language model; its validation and test text.
    """

    data: Path
    feats: Path
    token_list: Path
    bpe_prefix: Path
    stats: Path
    asr_exp: Path
    lm_stats: Path
    lm_exp: Path
    lm_train: Path
    lm_dev: Path
    lm_test: Path

    @property
    def bpe_model(self) -> Path:
        return self.bpe_prefix.with_suffix(".model")


def layout(o: argparse.Namespace) -> Layout:
    """Names as in asr.sh, so that both find what the other has made.

    Also sets ``o.train_set`` and ``o.inference_tag`` to what they then mean.
    """
    tokens = Path("data") / (f"{o.lang}_token_list" if o.lang != "noinfo" else "token_list")
    language = "" if o.lang == "noinfo" else f"_{o.lang}"
    units = language + "_" + o.token_type + (str(o.nbpe) if o.token_type == "bpe" else "")
    perturbed = "_sp" if o.speed_perturb_factors else ""
    original = Path(o.shrink).name.removesuffix(".zip").removeprefix("asr_")
    shrunk = f"{original}_shrunk" if o.shrink else ""
    asr_tag = (
        o.asr_tag
        or shrunk
        or (_stem(o.asr_config) + f"_{o.feats_type}{units}" + _squeeze(o.asr_args) + perturbed)
    )
    lm_tag = o.lm_tag or _stem(o.lm_config) + units + _squeeze(o.lm_args)
    exp, feats = Path(o.expdir), Path(o.dumpdir) / o.feats_type
    folder = f"bpe_{o.bpemode}{o.nbpe}" if o.token_type == "bpe" else o.token_type
    tests = o.test_sets.split()
    org_valid = feats / "org" / o.valid_set / "text"
    at = Layout(
        data=Path("data"),
        feats=feats,
        token_list=tokens / folder / "tokens.txt",
        bpe_prefix=tokens / f"bpe_{o.bpemode}{o.nbpe}" / "bpe",
        stats=Path(o.asr_stats_dir or exp / f"asr_stats_{o.feats_type}{units}{perturbed}"),
        asr_exp=Path(o.asr_exp or exp / f"asr_{asr_tag}"),
        lm_stats=Path(o.lm_stats_dir or exp / f"lm_stats{units}"),
        lm_exp=Path(o.lm_exp or exp / f"lm_{lm_tag}"),
        lm_train=feats / "lm_train.txt",
        lm_dev=Path(o.lm_dev_text or org_valid),
        lm_test=Path(o.lm_test_text or (feats / tests[0] / "text" if tests else org_valid)),
    )
    o.unperturbed_set = o.train_set
    o.train_set += perturbed
    o.inference_tag = o.inference_tag or _inference_tag(o, at.lm_exp)
    return at


def _stem(config) -> str:
    return Path(config).stem if config else "train"


def _squeeze(arguments: str, drop: str = "[ |=/]") -> str:
    return re.sub(drop, "", arguments.replace("--", "_"))


def _inference_tag(o: argparse.Namespace, lm_exp: Path) -> str:
    def name(model: str) -> str:
        return re.sub(r"\.[^.]*$", "", model.replace("/", "_"))

    tag = _stem(o.inference_config) if o.inference_config else "inference"
    tag += _squeeze(o.inference_args, "[ |=]")
    if o.use_lm:
        tag += f"_lm_{lm_exp.name}_{name(o.inference_lm)}"
    return f"{tag}_asr_model_{name(o.inference_asr_model)}"
