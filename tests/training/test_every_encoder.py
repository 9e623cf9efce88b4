"""Each encoder from its training to its ONNX file, by way of what measures and draws it."""

import json

import pytest
import soundfile
import torch

from espnet_des.deploy.extract import extract_subnet
from espnet_des.deploy.onnx.export import export_onnx
from espnet_des.inference.best_path import BestPathDecoder
from espnet_des.inference.loading import load_model
from espnet_des.inference.speech2text import Speech2Text
from espnet_des.measure.pictures import plot_all
from espnet_des.measure.report import report
from tests.conftest import TINY_OF
from tests.train import assert_same, let_it_talk, load, make_data, start, train_here

# The other tests have the Conformer, with layers of which each costs 1.
ANY_BUDGET = "des_conformer-any_budget"
OTHERS = [name for name in TINY_OF if name != "des_conformer"] + [ANY_BUDGET]
# Wide enough for int8.
WIDE = {"output_size": 32, "linear_units": 32, "cgmlp_linear_units": 64}
WIDE_CONFORMER = {"output_size": 32, "linear_units": 32}
# With all that is beyond the paper.
SHORT = {
    "max_epoch": 4, "use_tensorboard": True, "model_conf__rows_stage_1": 0.5,
    "model_conf__rows_small": 0.7, "model_conf__rows_middle": 0.5,
    "model_conf__exit_weight": 0.3, "model_conf__distillation_weight": 0.2,
}  # fmt: skip
CHOICE_OF = {
    ANY_BUDGET: {"model_conf__method": "ortho_softmax", "model_conf__budget": "macs",
                 "model_conf__rank_per_cost": True, "model_conf__reduction": None,
                 "model_conf__updates_per_iteration": 5},
}  # fmt: skip
# What goes through the trainer, and into processes of their own, is the same for all of them:
# one is enough most of the time.
ONE_OF_THEM = pytest.mark.parametrize(
    "trained",
    [
        name
        if name in ("des_e_branchformer", ANY_BUDGET)
        else pytest.param(name, marks=pytest.mark.thorough)
        for name in OTHERS
    ],
    indirect=True,
)


def settings_of(name):
    """Of a training: the encoder and its conf, and what else is not as in the others."""
    choice = CHOICE_OF.get(name, {})
    return {"encoder": name.split("-")[0], "encoder_conf": conf_of(name)} | SHORT | choice


def conf_of(name):
    if name == ANY_BUDGET:
        return TINY_OF["des_conformer"] | WIDE_CONFORMER | {
            "input_layer": "conv2d", "sizes": "any", "smallest_size": 3,
            "granularity": "component", "conv_parts": 2, "own_weights": True,
        }  # fmt: skip
    conf = TINY_OF[name] | {k: v for k, v in WIDE.items() if k in TINY_OF[name]}
    layers = 8 if "former" in name and conf.get("linear_units") else 4
    layers = {"des_transformer": 4, "des_branchformer": 4}.get(name, layers)
    return conf | {"input_layer": "conv2d", "sizes": [layers // 2 - 1, layers // 2, layers]}


@pytest.fixture(scope="module", params=OTHERS)
def trained(request, tmp_path_factory):
    """A supernet after both stages: its encoder's name, its experiment's folder."""
    folder = tmp_path_factory.mktemp(request.param)
    make_data(folder)
    exp = train_here(folder, folder, **settings_of(request.param))
    file = exp / "valid.cer_ctc.ave.pth"
    let_it_talk(exp / "config.yaml", file)
    return request.param, exp, file


@pytest.fixture(scope="module")
def extracted(trained, tmp_path_factory):
    _, exp, file = trained
    sizes = load_model(exp / "config.yaml", file)[0].encoder.sizes
    folder = tmp_path_factory.mktemp("extracted")
    return {
        size: extract_subnet(exp / "config.yaml", file, size, folder / f"size{size}")
        for size in sizes
    }


def waves(exp):
    lines = (exp.parent / "wav.scp").read_text().splitlines()[:4]
    return [torch.from_numpy(soundfile.read(line.split()[1], dtype="float32")[0])
            for line in lines]  # fmt: skip


def test_both_stages_were_trained(trained):
    _, exp, file = trained
    state = load(file)
    assert state["encoder.selection.ranking"].any()
    assert all(value.isfinite().all() for value in state.values())


def test_a_size_gives_one_output_in_every_form(trained, extracted):
    """Set in the supernet, extracted, by ESPnet's own Speech2Text."""
    _, exp, file = trained
    model, args = load_model(exp / "config.yaml", file)
    speech, texts = waves(exp), set()
    for size, own in extracted.items():
        model.set_size(size)
        expected = BestPathDecoder(model, args)(speech)
        part, part_args = load_model(own.with_name("config.yaml"), own)
        assert BestPathDecoder(part, part_args)(speech) == expected
        found = [
            Speech2Text(own.with_name("config.yaml"), own, beam_size=1, ctc_weight=1.0)(wave)
            for wave in speech
        ]
        assert all(results[0][3] is not None for results in found)
        texts.add(str(expected))
    assert len(texts) > 1  # the sizes say different things


def test_onnx_in_int8_is_checked_against_pytorch(trained, tmp_path, capsys):
    _, exp, file = trained
    size = load_model(exp / "config.yaml", file)[0].encoder.sizes[0]
    export_onnx(
        exp / "config.yaml", file, tmp_path / "small.onnx", size=size, quantize="int8",
        wav_scp=exp.parent / "wav.scp", text=exp.parent / "text",
    )  # fmt: skip
    assert (tmp_path / "small.onnx").exists() and "of PyTorch" in capsys.readouterr().out


@ONE_OF_THEM
def test_the_report_measures_every_size_and_a_stock_model(trained, tmp_path):
    _, exp, file = trained
    report(exp / "config.yaml", file, tmp_path, seconds=1.0, rounds=1, stock_blocks=[2])
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert len(rows) == 4 and rows[-1]["name"].startswith("stock, 2 blocks")
    *sizes, stock = rows
    encoder = load_model(exp / "config.yaml", file)[0].encoder
    kept = [len(encoder.kept_layers(size)) for size in encoder.sizes]
    assert [row["num_layers"] for row in sizes] == kept
    macs = [row["macs_per_second"] for row in sizes]
    assert macs == sorted(set(macs)) and macs[-1] == stock["macs_per_second"]
    assert sizes[-1]["encoder_params"] == stock["encoder_params"]


def test_pictures_show_its_layers(trained, tmp_path):
    _, exp, file = trained
    plot_all(exp / "config.yaml", file, tmp_path)
    assert (tmp_path / "kept_layers.png").exists() and (tmp_path / "scores.png").exists()


@ONE_OF_THEM
def test_a_resumed_training_ends_as_a_whole_one(trained, tmp_path):
    name, exp, _ = trained
    for epoch in (3, 4):
        train_here(exp.parent, tmp_path, **settings_of(name) | {"max_epoch": epoch})
    assert_same(load(exp / "4epoch.pth"), load(tmp_path / "exp/4epoch.pth"))


@ONE_OF_THEM
def test_two_processes_agree(trained, tmp_path):
    from tests.training.test_training import SCRIPT

    name, exp, _ = trained
    processes = [
        start(
            exp.parent, tmp_path / str(rank), program=[SCRIPT, str(tmp_path / f"{rank}.pth")],
            extra=["--dist_rank", str(rank), "--dist_world_size", "2", "--dist_backend", "gloo",
                   "--dist_init_method", f"file://{tmp_path}/rendezvous"],
            **settings_of(name) | {
                "max_epoch": 2, "accum_grad": 1, "unused_parameters": False,
                "model_conf__stochastic_depth_p1": 0.5, "model_conf__stochastic_depth_p2": 0.9,
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    for rank, process in enumerate(processes):
        assert process.wait(600) == 0, (tmp_path / str(rank) / "log0.txt").read_text()[-4000:]
    assert_same(load(tmp_path / "0.pth"), load(tmp_path / "1.pth"))
