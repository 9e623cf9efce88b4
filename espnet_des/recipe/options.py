"""Options of the driver: the names, meanings and defaults of ESPnet's asr.sh."""

import argparse
import difflib
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from espnet2.utils.types import humanfriendly_parse_size_or_none as parse_size
from espnet2.utils.types import str2bool, str_or_none
from espnet_des.inference.scoring import text_cleaner
from espnet_des.recipe.asr_sh import (
    LEFT_OUT,
    WITHOUT_SIZES,
    check_followed,
    check_known,
    following_stage,
    needed_by,
)
from espnet_des.shrink.options import ShrinkOptions
from espnet_des.utils.command import CommandParser


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; of an option given twice the last value counts.

    Names may have hyphens, as in Kaldi's and ESPnet's scripts. With ``--asr_sh`` the options
    are ESPnet's, and what comes back is for stage 16 alone, or for stage 11 of a shrink.
    """
    parser = make_parser()
    values = read_values(parser, argv)
    follows = bool(values.get("asr_sh"))
    if follows:
        check_known(parser, list(values), Path(values["asr_sh"]))
        stage = following_stage(values)
        if stage == 16:
            check_followed(parser, values)
        values = {name: values[name] for name in needed_by(parser, stage) & values.keys()}
    else:
        check_names_of(parser, list(values))
    opts = parser.parse_args([f"--{name}={value}" for name, value in values.items()])
    if follows:
        opts.stage = stage
    check(parser, opts)
    return opts


def read_values(parser: argparse.ArgumentParser, argv: list[str]) -> dict[str, str]:
    """Options to their values, of ``--name value`` and of ``--name=value``."""
    values: dict[str, str] = {}
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--help", "-h"):
            parser.parse_args(["--help"])
        if not argument.startswith("--"):
            parser.error(f"{argument}: every argument must follow an --option")
        name, is_joined, value = argument[2:].partition("=")
        if not is_joined:
            following = next(arguments, None)
            if following is None:
                parser.error(f"{argument} needs a value")
            value = following
        values[name.replace("-", "_")] = value
    return values


def check_names_of(parser: argparse.ArgumentParser, names: list[str]) -> None:
    """Refuse options that there are not, and name one that may be meant."""
    known = vars(parser.parse_args([]))
    for name in names:
        if name not in known:
            alike = difflib.get_close_matches(name, known, 1)
            hint = f" is --{alike[0]} meant?" if alike else ""
            parser.error(f"--{name}: unknown;{hint} --help lists all options")


def make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="run.sh", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip

    target: Any = parser  # or a group of its options

    def group(title: str):
        nonlocal target
        target = parser.add_argument_group(title)

    def add(name: str, type=str, default="", help=""):
        target.add_argument(f"--{name}", type=type, default=default, help=help or " ")

    group("General")
    add("stage", int, 1, "first stage to run")
    add("stop_stage", int, 10000, "last stage to run")
    add("skip_stages", default="", help="stages to leave out, separated by spaces")
    add("skip_data_prep", str2bool, False, "leave out stages 1 to 5")
    add("skip_train", str2bool, False, "leave out stages 2 and 4 to 11")
    add("skip_eval", str2bool, False, "leave out stages 12 and 13")
    add("skip_packing", str2bool, True, "leave out stage 14")
    add("skip_sizes", str2bool, False, "leave out stage 16, the table of sizes")
    add("eval_valid_set", str2bool, False, "decode the validation set, too")
    add("ngpu", int, 1, "number of GPUs; 0 uses the CPU")
    add("nj", int, 2, "number of parallel jobs of data preparation")
    add("inference_nj", int, 2, "number of parallel jobs of decoding")
    add("dumpdir", default="dump", help="folder of formatted data")
    add("expdir", default="exp", help="folder of experiments")
    add(
        "python",
        default=f"{shlex.quote(sys.executable)} -m espnet_des",
        help="runs ESPnet's commands",
    )
    group("Data")
    add("local_data_opts", default="", help="options of local/data.sh")
    add("audio_format", default="flac", help="of files that must be written anew")
    add("feats_type", default="raw")
    add("fs", default="16k", help="sampling rate")
    add("min_wav_duration", float, 0.1, "in seconds; shorter ones are dropped")
    add("max_wav_duration", float, 20.0, "in seconds; longer ones are dropped")
    add("train_set")
    add("valid_set")
    add("test_sets", default="", help="separated by spaces")
    add("lang", default="noinfo")
    add("nlsyms_txt", default="none")
    add(
        "cleaner",
        default="none",
        help="of texts: before training, and of references in scoring",
    )
    add("hyp_cleaner", default="none", help="of decoded texts in scoring")
    add("g2p", default="none")
    add("speed_perturb_factors", default="", help='for example "0.9 1.0 1.1"')
    group("Tokens")
    add("token_type", default="bpe", help="char, bpe or word")
    add("nbpe", int, 30, "number of BPE units")
    add("bpemode", default="unigram")
    add("oov", default="<unk>")
    add("blank", default="<blank>")
    add("sos_eos", default="<sos/eos>")
    add("bpe_train_text", default="", help="text for the BPE model")
    add("bpe_input_sentence_size", int, 100000000)
    add(
        "bpe_nlsyms",
        default="",
        help="symbols that BPE keeps whole, separated by commas; or a file with one in each line",
    )
    add("bpe_char_cover", float, 1.0)
    group("Language model")
    add("use_lm", str2bool, True, "train one (stages 6 to 8) and decode with it")
    add("lm_config", str_or_none, None, "training config")
    add("lm_args", default="", help="options that overrule the config")
    add("lm_tag", default="", help="suffix of the experiment's folder")
    add("lm_exp", default="", help="folder of the experiment")
    add("lm_stats_dir", default="", help="folder of the statistics")
    add("lm_train_text", default="", help="texts; also for a token list of characters")
    add("lm_dev_text")
    add("lm_test_text")
    add("lm_fold_length", int, 150)
    add("inference_lm", default="valid.loss.ave.pth", help="model file to decode with")
    group("ASR")
    add("asr_config", str_or_none, None, "training config")
    add("asr_args", default="", help="options that overrule the config")
    add("asr_tag", default="", help="suffix of the experiment's folder")
    add("asr_exp", default="", help="folder of the experiment")
    add("asr_stats_dir", default="", help="folder of the statistics")
    add("pretrained_model", default="", help="passed to --init_param")
    add("ignore_init_mismatch", str2bool, False)
    add("feats_normalize", default="global_mvn")
    add("asr_speech_fold_length", int, 800)
    add("asr_text_fold_length", int, 150)
    group("Shrinking a trained model (stage 11, not in asr.sh)")
    add(
        "shrink",
        default="",
        help="its experiment, with --inference_asr_model, or a packed one",
    )
    add("shrink_args", default="", help='of espnet_des.bin.shrink, such as "--sizes 16 32 48"')
    group("Decoding")
    add("inference_asr_model", default="valid.acc.ave.pth", help="model file to decode with")
    add("inference_config", str_or_none, None, "decoding config")
    add("inference_args", default="", help="options that overrule the config")
    add("inference_tag", default="", help="name of the decoding's folder")
    add("batch_size", int, 1, "utterances decoded at once by beam search")
    group("Sizes (stage 16, not in asr.sh)")
    add("sizes_decoding", default="best_path", help="best_path, or beam as in stage 12")
    add(
        "num_sizes", int, 11,
        "how many sizes of a supernet with sizes: any, evenly spaced; of one with a list of "
        "sizes all are taken",
    )  # fmt: skip

    others = parser.add_argument_group("Left out of this driver (asr.sh has them)")
    for name, off in LEFT_OUT.items():
        others.add_argument(f"--{name}", default=off, help=argparse.SUPPRESS)
    # Of the recipes' asr.sh, where ESPnet's runs all stages but 16.
    others.add_argument("--asr_sh", default="", help=argparse.SUPPRESS)
    others.add_argument("--only_check", type=str2bool, default=False, help=argparse.SUPPRESS)
    return parser


def check(parser: argparse.ArgumentParser, opts: argparse.Namespace) -> None:
    """Refuse what cannot work before any stage runs."""
    for name, off in LEFT_OUT.items():
        if getattr(opts, name) != off:
            parser.error(
                f"--{name} {getattr(opts, name)}: this driver leaves that out; it is part "
                f"of ESPnet's asr.sh, which --espnet_root runs (here only {off or 'empty'!r} is "
                "possible)"
            )
    for name in ("train_set", "valid_set", "test_sets"):
        if not getattr(opts, name):
            parser.error(f"--{name} is required")
    follows = bool(opts.asr_sh)
    right = {
        "feats_type": ["raw", "raw_copy"] if follows else ["raw"],
        "token_type": ["char", "bpe", "word"],
        "audio_format": ["flac", "wav", *(["flac.ark"] if follows else [])],
        "feats_normalize": ["global_mvn", "utterance_mvn"],
        "sizes_decoding": ["best_path", "beam"],
    }
    if follows:
        del right["feats_normalize"]  # nothing but packing asks for it
    for name, values in right.items():
        if getattr(opts, name) not in values:
            hint = f"; {WITHOUT_SIZES}" if follows else ""
            parser.error(f"--{name} {getattr(opts, name)}: must be one of {values}{hint}")
    for name in ("asr_config", "lm_config", "inference_config"):
        path = getattr(opts, name)
        if path is not None and not Path(path).is_file():
            parser.error(f"--{name} {path}: no such file")
    if not all(stage.isdecimal() for stage in opts.skip_stages.split()):
        parser.error(
            f'--skip_stages {opts.skip_stages}: must be numbers of stages, such as "6 7 8"'
        )
    for name in ("nj", "inference_nj", "batch_size", "nbpe"):
        if getattr(opts, name) < 1:
            parser.error(f"--{name} {getattr(opts, name)}: must be 1 or more")
    if opts.num_sizes < 3:
        parser.error(
            f"--num_sizes {opts.num_sizes}: must be 3 or more: the smallest, the middle and the "
            "full size are always among them"
        )
    for name in ("cleaner", "hyp_cleaner"):
        try:
            text_cleaner(getattr(opts, name))
        except RuntimeError as error:
            parser.error(f"--{name} {getattr(opts, name)}: {error}")
    check_names(parser, opts)
    check_shrink(parser, opts)
    check_sets(parser, opts)
    check_ctc(parser, opts)
    try:
        opts.sample_rate = parse_size(opts.fs)
    except Exception:
        parser.error(f"--fs {opts.fs}: must be a rate such as 16k or 16000")


def check_shrink(parser: argparse.ArgumentParser, opts: argparse.Namespace) -> None:
    """Refuse what a shrink cannot begin with."""
    if not opts.shrink:
        if opts.shrink_args:
            parser.error(f"--shrink_args {opts.shrink_args}: give the model, too: --shrink")
        return
    if not Path(opts.shrink).exists():
        parser.error(
            f"--shrink {opts.shrink}: is not there; give the experiment of a trained model, such "
            "as exp/asr_train_conformer, or a packed one"
        )
    if opts.pretrained_model:
        parser.error(
            f"--pretrained_model {opts.pretrained_model}: leave it out with --shrink, whose model "
            "the training begins with"
        )
    try:
        ShrinkOptions.of_words(shlex.split(opts.shrink_args))
    except ValueError as error:
        parser.error(f"--shrink_args {opts.shrink_args}: {error}")


def check_ctc(parser: argparse.ArgumentParser, opts: argparse.Namespace) -> None:
    """Refuse stage 16 of a model without CTC before the training, not after it."""
    if opts.asr_config is None or opts.skip_sizes or opts.stop_stage < 16:
        return
    try:
        config = yaml.safe_load(Path(opts.asr_config).read_text("utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        where = " ".join(str(error).split())  # on one line, as all errors of options
        parser.error(f"--asr_config {opts.asr_config}: is no YAML ({where})")
    conf = config.get("model_conf") if isinstance(config, dict) else None
    if isinstance(conf, dict) and conf.get("ctc_weight") == 0.0:
        parser.error(
            f"--asr_config {opts.asr_config}: model_conf: ctc_weight: 0.0 leaves the model "
            "without CTC, by which stage 16 decodes and measures; leave that stage out with "
            "--skip_sizes true, or set a weight above 0"
        )


def check_names(parser: argparse.ArgumentParser, opts: argparse.Namespace) -> None:
    """Refuse names of folders that would lead out of the folder in which they are made.

    Options that name places (``--expdir``, ``--asr_exp``, ...) may lead anywhere.
    """
    for name in ("asr_tag", "lm_tag", "inference_tag", "lang", "bpemode"):
        value = getattr(opts, name)
        if "/" in value or value in (".", ".."):
            parser.error(
                f"--{name} {value}: must be the name of one folder, without '/', such as "
                "first_try; where experiments go, --expdir says"
            )
    for name in ("train_set", "valid_set", "test_sets"):
        value = getattr(opts, name)
        for one in value.split():
            if one.startswith("/") or {".", ".."} & set(one.split("/")):
                parser.error(f"--{name} {value}: must name folders below data, such as train")
    if not opts.inference_tag and ".." in opts.inference_args.split("/"):
        parser.error(
            f"--inference_args {opts.inference_args}: cannot be part of a folder's name, as it "
            "is by default; name the folder with --inference_tag"
        )


def check_sets(parser: argparse.ArgumentParser, opts: argparse.Namespace) -> None:
    """As asr.sh: the validation set among the test sets means --eval_valid_set."""
    sets = list(dict.fromkeys(opts.test_sets.split()))
    if opts.train_set in (*sets, opts.valid_set):
        parser.error(
            f"--train_set {opts.train_set}: must be neither the validation nor a test set"
        )
    if opts.valid_set in sets:
        opts.eval_valid_set = True
        sets.remove(opts.valid_set)
    opts.test_sets = " ".join(sets)
    try:
        factors = [float(f) for f in opts.speed_perturb_factors.split()]
    except ValueError:
        factors = [0.0]
    if any(not 0.1 < f < 10 for f in factors):
        parser.error(
            f"--speed_perturb_factors {opts.speed_perturb_factors}: must be factors "
            'such as "0.9 1.0 1.1"'
        )
