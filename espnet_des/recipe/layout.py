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
    """

    data: Path
    feats: Path
    token_list: Path
    bpe_prefix: Path
    stats: Path
    asr_exp: Path

    @property
    def bpe_model(self) -> Path:
        return self.bpe_prefix.with_suffix(".model")


def layout(o: argparse.Namespace) -> Layout:
    """Names as in asr.sh, so that both find what the other has made."""
    tokens = Path("data") / (f"{o.lang}_token_list" if o.lang != "noinfo" else "token_list")
    units = f"{o.token_type}{o.nbpe}" if o.token_type == "bpe" else o.token_type
    language = "" if o.lang == "noinfo" else f"_{o.lang}"
    tag = o.asr_tag
    if not tag:
        tag = Path(o.asr_config).stem if o.asr_config else "train"
        tag += f"_{o.feats_type}{language}_{units}"
        tag += re.sub("[ |=/]", "", o.asr_args.replace("--", "_"))
    exp = Path(o.expdir)
    folder = f"bpe_{o.bpemode}{o.nbpe}" if o.token_type == "bpe" else o.token_type
    return Layout(
        data=Path("data"),
        feats=Path(o.dumpdir) / o.feats_type,
        token_list=tokens / folder / "tokens.txt",
        bpe_prefix=tokens / f"bpe_{o.bpemode}{o.nbpe}" / "bpe",
        stats=Path(o.asr_stats_dir or exp / f"asr_stats_{o.feats_type}{language}_{units}"),
        asr_exp=Path(o.asr_exp or exp / f"asr_{tag}"),
    )
