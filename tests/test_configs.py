"""Every shipped config: ESPnet's own parsers take it, and it trains what it says."""

import re
from pathlib import Path

import pytest
import yaml

from espnet_des.method.options import check_fits
from espnet_des.nn.dw_striding import DWStridingSubsampling
from espnet_des.nn.encoders import SUPERNETS

ROOT = Path(__file__).parents[1]
TRAIN = sorted(ROOT.glob("conf/*/train*.yaml"))
LM = [p for p in TRAIN if "lm" in yaml.safe_load(p.read_text())]
# With ESPnet's own settings and number of updates, not the paper's.
ESPNETS = sorted(ROOT.glob("conf/[lt]*/train*e_branchformer*.yaml"))
ASR = [p for p in TRAIN if p not in LM + ESPNETS]
DECODE = sorted(ROOT.glob("conf/*/decode*.yaml"))
# E, the last update of stage 1: the sum of the published updates per iteration.
LAST_UPDATE = {
    "mini_digits/train_des": 216,  # 45% of 480, the default
    "mini_digits/train_des_e_branchformer": 216,
    "compare_digits/train_des": 8 * 39,
    "compare_digits_e_branchformer/train_des": 8 * 39,
    "compare_words/train_des": 8 * 135,
    "compare_read/train_des": 8 * 1125,
    "compare_natural/train_des": 8 * 168,
    "librispeech/train_des": 8 * 41175,  # 45%
    "tedlium2/train_des": 8 * 19687,
    "librispeech/train_des_simple_top_k": 32 * 14640,
    "librispeech/train_des_iterative_zero_out": 16 * 27450,
    "tedlium2/train_des_simple_top_k": 8 * 26600,
    "tedlium2/train_des_simple_top_k_24_48": 6 * 35000,
    "tedlium2/train_des_simple_top_k_12_24_36_48": 36 * 5734,
    "tedlium2/train_des_iterative_zero_out": 42000 + 7 * 25200,
    "tedlium2/train_des_iterative_zero_out_24_48": 63000 + 7 * 21000,
    "tedlium2/train_des_iterative_zero_out_12_24_36_48": 14000 + 35 * 5600,
}
# Corpora of the project's own, with small models.
OWN = {"mini_digits", "compare_digits", "compare_digits_e_branchformer", "compare_words",
       "compare_read", "compare_natural"}  # fmt: skip
UPDATES = {
    "mini_digits": 480, "compare_digits": 700, "compare_digits_e_branchformer": 700,
    "compare_words": 2400, "compare_read": 20000, "compare_natural": 3000,
    "librispeech": 732000, "tedlium2": 350000,
}  # fmt: skip


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture
def parse(tmp_path):
    """Parse a config as ESPnet's command does: an unknown key is an error."""
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("<blank>\n<unk>\nA\nB\n<space>\n<sos/eos>\n")

    def parse(task, path):
        arguments = ["--config", str(path), "--token_list", str(tokens)]
        return task.get_parser().parse_args(arguments)

    return parse


@pytest.mark.parametrize("path", ASR, ids=name)
def test_asr_config(path, parse):
    from espnet2.tasks.abs_task import scheduler_classes
    from espnet2.tasks.asr import ASRTask
    from espnet_des.task import SupernetTask, needs_supernet

    args = parse(ASRTask, path)
    model = ASRTask.build_model(args)
    corpus, total = path.parent.name, args.scheduler_conf["total_steps"]
    assert args.max_epoch * (args.num_iters_per_epoch // args.accum_grad) == total
    assert total == UPDATES[corpus]
    assert ["valid", "cer_ctc", "min"] in [list(c) for c in args.best_model_criterion]

    encoder, task = model.encoder, ASRTask
    if needs_supernet(args):
        task = SupernetTask
        published = re.findall(r"_(\d+)", path.stem) or ["16", "32", "48"]
        sizes = [int(s) for s in published]
        if corpus in OWN - {"compare_read", "compare_natural"}:
            sizes = [8, 16, 24]
        assert encoder.sizes == sizes
        assert (
            args.model_conf["method"] in path.stem or corpus in OWN or path.stem == "train_des"
        )
        is_published = corpus not in OWN and path.stem != "train_des"
        assert (args.model_conf.get("preset") == "published") == is_published
        # Of the smaller sizes a guess: which layers they keep is not known yet.
        counts = {size: encoder.count_parameters(size) for size in sizes}
        schedule = model.options.resolve(encoder.num_layers, sizes[0], total)
        check_fits(schedule, total)
        assert schedule.last_update == LAST_UPDATE[name(path)]
    else:
        layers = 4 * len(encoder.encoders)
        assert str(layers) in path.stem or path.stem == "train_aux_loss"
        counts = {layers: sum(p.numel() for p in encoder.parameters())}
    millions = ", ".join(f"{size}: {n / 1e6:.1f}M" for size, n in counts.items())
    print(f"{name(path)}: parameters of the encoder {millions}")

    if path.stem == "train_aux_loss":
        assert encoder.interctc_layer_idx == [4, 8]
        w = args.model_conf["interctc_weight"]
        assert w / 2 / (1 - w) == pytest.approx(0.3)  # published, next to 1.0

    (optimizer,) = task.build_optimizers(args, model)
    scheduler = scheduler_classes[args.scheduler](optimizer, **args.scheduler_conf)
    if corpus not in OWN:
        turn = round(args.scheduler_conf["pct_start"] * total)
        at = {0: 4e-6, turn - 1: 4e-4, 2 * turn - 2: 4e-6, total - 1: 1e-8}
        for update, rate in at.items():
            scheduler.last_epoch = update
            assert scheduler.get_lr()[0] == pytest.approx(rate)
        assert optimizer.defaults["eps"] == 1e-16


@pytest.mark.parametrize("corpus", ["librispeech", "tedlium2"])
def test_the_front_end_that_configs_tell_of_can_be_built(corpus):
    configs = sorted((ROOT / "conf" / corpus).glob("train_des*.yaml"))
    assert configs
    for path in configs:
        text = re.sub(r"^    input_layer: .*\n", "", path.read_text(), flags=re.MULTILINE)
        text = re.sub(r"# (input_layer|subsampling_factor):", r"\1:", text)
        config = yaml.safe_load(text)
        conf = config["encoder_conf"] | {"num_blocks": 1, "sizes": [1, 4]}
        embed = SUPERNETS[config["encoder"]](80, **conf).embed
        assert type(embed) is DWStridingSubsampling and embed.factor == 8


@pytest.mark.parametrize("corpus", ["librispeech", "tedlium2"])
def test_the_options_for_any_budget_that_a_config_tells(corpus, tmp_path):
    from espnet2.tasks.asr import ASRTask

    path = ROOT / "conf" / corpus / "train_des.yaml"
    (told,) = re.findall(r'#     "(--encoder_conf .*)"', path.read_text())
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("<blank>\n<unk>\nA\n<sos/eos>\n")
    arguments = ["--config", str(path), "--token_list", str(tokens), *told.split()]
    model = ASRTask.build_model(ASRTask.get_parser().parse_args(arguments))
    assert model.encoder.all_sizes == list(range(16, 49))
    heads = {"librispeech": 8, "tedlium2": 6}[corpus]
    assert model.encoder.num_units == 12 * (4 + 1 + heads + 4)
    assert model.options.budget == "macs"


@pytest.mark.parametrize("path", ESPNETS, ids=name)
def test_e_branchformer_config(path, parse):
    """ESPnet's published widths; the sizes are of as many layers as whole blocks have."""
    from espnet2.tasks.asr import ASRTask
    from espnet_des.task import SupernetTask, needs_supernet

    args = parse(ASRTask, path)
    model = ASRTask.build_model(args)
    encoder, is_supernet = model.encoder, "train_des" in path.stem
    assert needs_supernet(args) == is_supernet
    blocks, dim = {"librispeech": (17, 512), "tedlium2": (12, 256)}[path.parent.name]
    assert (len(encoder.encoders), encoder.output_size()) == (blocks, dim)
    is_hybrid = not path.stem.endswith("_ctc")
    assert (model.decoder is not None) == is_hybrid == (model.ctc_weight < 1)
    ranked = "acc" if is_hybrid else "cer_ctc"
    assert [criterion[1] for criterion in args.best_model_criterion] == [ranked]
    other = path.with_name(path.name.replace("_des", "") if is_supernet else
                           path.name.replace("train_", "train_des_"))  # fmt: skip
    own, theirs = (yaml.safe_load(p.read_text()) for p in (path, other))
    same = own.keys() - {"encoder", "encoder_conf", "model", "model_conf", "unused_parameters"}
    assert all(own[key] == theirs[key] for key in same)
    if is_supernet:
        assert own["encoder_conf"].pop("sizes") == encoder.sizes
        assert own["encoder_conf"] == theirs["encoder_conf"]
        assert all(size % 4 == 0 for size in encoder.sizes)
        SupernetTask.build_optimizers(args, model)
        total = 1000 * args.max_epoch
        check_fits(model.options.resolve(4 * blocks, encoder.sizes[0], total), total)


@pytest.mark.parametrize("path", LM, ids=name)
def test_lm_config(path, parse):
    from espnet2.tasks.lm import LMTask

    args = parse(LMTask, path)
    model = LMTask.build_model(args)
    LMTask.build_optimizers(args, model)


@pytest.mark.parametrize("path", DECODE, ids=name)
def test_decode_config(path):
    from espnet2.bin.asr_inference import get_parser

    required = ["--output_dir", "out", "--data_path_and_name_and_type", "a,speech,sound"]
    args = get_parser().parse_args(["--config", str(path), *required])
    # Elsewhere nothing but CTC has been trained.
    assert args.ctc_weight == (0.3 if "hybrid" in path.stem else 1.0)
    assert (args.lm_weight > 0) == ("lm" in path.stem)


@pytest.mark.parametrize("path", TRAIN + DECODE, ids=name)
def test_first_line_is_the_launch_command(path):
    """``cd egs2/CORPUS/asr1 && ./run.sh ...``, of this very file."""
    line = path.read_text().splitlines()[0]
    folder, command = re.fullmatch(r"# cd (\S+) && \./run\.sh(.*)", line).groups()
    assert (ROOT / folder / "conf" / path.name).samefile(path)
    options = dict(zip(command.split()[::2], command.split()[1::2]))
    kind = "inference" if path in DECODE else "lm" if path in LM else "asr"
    config = options.get(f"--{kind}_config")
    if config is None:  # then it is what the recipe takes by itself
        config = re.search(rf"--{kind}_config (\S+)", (ROOT / folder / "run.sh").read_text())[
            1
        ]
    assert config == f"conf/{path.name}"
