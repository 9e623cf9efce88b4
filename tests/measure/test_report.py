"""The report: MACs by hand, rows that belong together, files, refusals."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from espnet_des.deploy.extract import extract_subnet
from espnet_des.errors import ConfigError
from tests.conftest import TINY, TOKENS, make_model
from tests.train import load, make_data, train_here

STATIC = ("num_layers", "encoder_params", "model_params", "macs_per_second",
          "front_end_macs_per_second", "model_file_bytes")  # fmt: skip


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """A trained supernet of two blocks; its experiment folder."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    return train_here(folder, folder, max_epoch=3)


def files(supernet):
    return supernet / "config.yaml", supernet / "valid.cer_ctc.ave.pth"


def command(supernet, out, *options):
    config, model_file = files(supernet)
    words = [sys.executable, "-m", "espnet_des.bin.report", "--asr_train_config", config,
             "--asr_model_file", model_file, "--output_dir", out, *options]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True)


@pytest.fixture(scope="module")
def reported(supernet, tmp_path_factory):
    """A run of the command; its folder and what it printed."""
    out = tmp_path_factory.mktemp("report") / "new"
    options = ("--stock_blocks", "1", "2", "--seconds", "2", "--rounds", "2")
    done = command(supernet, out, *options)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture(scope="module")
def rows(reported):
    found = json.loads((reported[0] / "report.json").read_text())["rows"]
    return {row["name"]: row for row in found}


# ---- MACs -----------------------------------------------------------------


def macs_by_hand(frames, features, conf, vocab, kinds):
    """Of the front end, the layers, and the CTC output layer.

    A 3x3 convolution of stride 2 maps n to (n - 1) // 2 positions.
    """
    d, units, kernel = conf["output_size"], conf["linear_units"], conf["cnn_module_kernel"]
    t1, f1 = (frames - 1) // 2, (features - 1) // 2
    t, f = (t1 - 1) // 2, (f1 - 1) // 2
    front = t1 * f1 * d * 1 * 9 + t * f * d * d * 9 + t * (d * f) * d
    feed_forward = t * d * units + t * units * d
    positions = 2 * t - 1  # relative ones, from -(t - 1) to t - 1
    attention = (
        4 * t * d * d  # query, key, value, output
        + positions * d * d  # linear_pos, once for the batch
        + t * t * d  # query times key, all heads together
        + t * positions * d  # query times position
        + t * t * d  # weights times value
    )
    # d to 2 d (the gate takes half), depthwise: one filter per channel, d to d.
    convolution = t * d * 2 * d + t * d * kernel + t * d * d
    cost = {"ff_macaron": feed_forward, "mhsa": attention, "conv": convolution,
            "ff": feed_forward}  # fmt: skip
    return front, sum(cost[kind] for kind in kinds), t * d * vocab


def ctc_model(encoder):
    """An ESPnet model over features."""
    from espnet2.asr.ctc import CTC
    from espnet2.asr.espnet_model import ESPnetASRModel

    absent = ("frontend", "specaug", "normalize", "preencoder", "postencoder", "decoder",
              "joint_network")  # fmt: skip
    return ESPnetASRModel(
        vocab_size=len(TOKENS), token_list=list(TOKENS), encoder=encoder,
        ctc=CTC(len(TOKENS), encoder.output_size()), ctc_weight=1.0,
        **dict.fromkeys(absent),
    )  # fmt: skip


CONF = TINY | {"input_layer": "conv2d", "linear_units": 10, "cnn_module_kernel": 5}


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [2], [1, 2, 3, 6, 7], list(range(8))])
def test_macs_are_those_counted_by_hand(kept):
    from espnet_des.nn.encoders import SubnetConformerEncoder
    from espnet_des.nn.macs import count_macs

    encoder = SubnetConformerEncoder(12, kept_layers=kept, **CONF)
    kinds = [layer.kind for layer in encoder.layers]
    counted = count_macs(ctc_model(encoder), torch.randn(1, 51, 12))
    front, layers, head = macs_by_hand(51, 12, CONF, len(TOKENS), kinds)
    assert counted == (front + layers + head, front)


@pytest.mark.parametrize("kept, blocks", [([0, 1, 2, 3], 1), ([4, 5, 6, 7], 1), (None, 2)])
def test_whole_blocks_cost_what_as_many_stock_blocks_do(kept, blocks):
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
    from espnet_des.nn.encoders import SubnetConformerEncoder
    from espnet_des.nn.macs import count_macs

    part = SubnetConformerEncoder(12, kept_layers=kept, conv_norm="batch_norm", **CONF)
    stock = ConformerEncoder(12, **(CONF | {"num_blocks": blocks}))
    speech = torch.randn(1, 51, 12)
    assert count_macs(ctc_model(part), speech) == count_macs(ctc_model(stock), speech)


def test_macs_of_fused_attention_are_those_of_the_plain_one():
    """torch's own counter passes over it on a CPU."""
    from espnet_des.nn.macs import count_macs

    plain = {"selfattention_layer_type": "selfattn", "pos_enc_layer_type": "abs_pos"}
    speech = torch.randn(1, 60, 12)
    one, two = (
        count_macs(make_model(plain | {"use_sdpa": use}), speech) for use in (False, True)
    )
    assert one == two and one.total > one.front_end > 0


def test_vgg_counts_as_front_end():
    from espnet_des.nn.macs import count_macs

    macs = count_macs(make_model({"input_layer": "vgg"}), torch.randn(1, 40, 12))
    channels = 1 * 32 + 32 * 64  # at the full frame rate, 3x3
    later = 64 * 64 + 64 * 32  # at half of it
    linear = 10 * (32 * 12) * 8
    assert macs.front_end == 9 * 12 * (40 * channels + 20 * later) + linear


def test_dw_striding_counts_as_front_end():
    from espnet_des.nn.macs import count_macs

    conf = {"input_layer": "dw_striding", "subsampling_channels": 6, "subsampling_factor": 8}
    macs = count_macs(make_model(conf), torch.randn(1, 40, 12))
    # 40 frames and 7 at each end: 54, 26, 12, 5; of 12 features 6, 3, 2.
    convs = 26 * 6 * 9 * 6 + 12 * 3 * 6 * (9 + 6) + 5 * 2 * 6 * (9 + 6)
    assert macs.front_end == convs + 5 * (6 * 2) * 8


# ---- a run of the command ---------------------------------------------------


def test_every_size_and_every_stock_model_has_a_row(supernet, rows):
    from espnet_des.inference.loading import load_model

    names = ["size 3", "size 5", "size 8", "stock, 1 block", "stock, 2 blocks"]
    assert list(rows) == names
    model, _ = load_model(*files(supernet))
    for size in (3, 5, 8):
        row = rows[f"size {size}"]
        assert row["num_layers"] == size
        assert row["kept_layers"] == model.encoder.kept_layers(size)
        assert row["encoder_params"] == model.encoder.count_parameters(size)
        head = sum(p.numel() for p in model.ctc.ctc_lo.of_size(size).parameters(recurse=False))
        assert row["model_params"] == row["encoder_params"] + head
    assert rows["stock, 1 block"]["kept_layers"] is None
    assert [rows[name]["num_layers"] for name in names] == [3, 5, 8, 4, 8]


def test_larger_sizes_cost_more(rows):
    sizes = [rows[f"size {size}"] for size in (3, 5, 8)]
    for key in STATIC:
        values = [row[key] for row in sizes]
        if key == "front_end_macs_per_second":
            assert len(set(values)) == 1 and 0 < values[0] < sizes[0]["macs_per_second"]
        else:
            assert values == sorted(set(values)), key


def test_the_full_size_costs_what_stock_does(rows):
    """Its norm is another one, of as many parameters; BatchNorm has buffers besides."""
    full, stock = rows["size 8"], rows["stock, 2 blocks"]
    for key in STATIC:
        if key != "model_file_bytes":
            assert full[key] == stock[key], key


def test_macs_of_a_run_are_per_second_of_audio(supernet, rows):
    """2 s at 8 kHz with a hop of 80 samples are 201 frames of 16 features."""
    from espnet_des.inference.loading import load_model
    from espnet_des.nn.sizes import layers_of

    model, args = load_model(*files(supernet))
    kinds = [layer.kind for layer in layers_of(model.encoder)]
    conf, vocab = args.encoder_conf, len(args.token_list)
    for size in (3, 5, 8):
        row = rows[f"size {size}"]
        own = [kinds[q] for q in row["kept_layers"]]
        by_hand = macs_by_hand(201, 16, conf, vocab, own)
        assert row["macs_per_second"] == round(sum(by_hand) / 2)
        assert row["front_end_macs_per_second"] == round(by_hand[0] / 2)


def test_files_and_measurements(supernet, rows, tmp_path):
    for size in (3, 8):
        file = extract_subnet(*files(supernet), size, tmp_path / str(size))
        assert rows[f"size {size}"]["model_file_bytes"] == file.stat().st_size
    for row in rows.values():
        # No more is known of what a machine measures.
        for threads in ("1_thread", "all_threads"):
            times = row[f"times_{threads}"]
            assert len(times) == 2 and min(times) > 0
            assert min(times) / 2 <= row[f"rtf_{threads}"] <= max(times) / 2
        peak = row["peak_memory_bytes"]
        assert peak is None or row["model_file_bytes"] < peak < 1e9


def test_markdown_json_and_screen_say_the_same(supernet, reported, rows):
    out, printed = reported
    assert {p.name for p in out.iterdir()} == {"report.md", "report.json"}
    text = (out / "report.md").read_text()
    assert printed.strip() == text.strip()
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [line[0] for line in cells[2:]] == list(rows)
    assert {len(line) for line in cells} == {11}
    about = json.loads((out / "report.json").read_text())["about"]
    assert about["asr_model_file"] == str(files(supernet)[1]) and about["seconds"] == 2.0
    for value in (about["cpu"], about["torch"], f"{about['threads']} cores", "2 FLOPs",
                  "at 2 s", "median of 2 rounds", "1 thread"):  # fmt: skip
        assert value in text, value


# ---- the function -----------------------------------------------------------


@pytest.mark.thorough
def test_extracted_sizes_can_be_handed_over_and_reported_alone(supernet, rows, tmp_path):
    from espnet_des.measure.report import report

    file = extract_subnet(*files(supernet), 3, tmp_path / "size3")
    options = {"seconds": 2.0, "rounds": 1}
    of_supernet = report(*files(supernet), tmp_path / "a", subnets={3: file}, **options)
    alone = report(tmp_path / "size3/config.yaml", file, tmp_path / "b", **options)
    for found in (of_supernet, alone):
        (row,) = found
        assert row["name"] == "size 3" and row["kept_layers"] == rows["size 3"]["kept_layers"]
        assert [row[key] for key in STATIC] == [rows["size 3"][key] for key in STATIC]


def test_stock_settings_are_those_of_the_supernet(supernet, tmp_path):
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
    from espnet_des.inference.loading import load_model
    from espnet_des.measure.stock import save_stock, stock_config

    config = yaml.safe_load(files(supernet)[0].read_text())
    config["encoder_conf"] |= {"input_layer": "vgg", "conv_norm": "layer_norm",
                               "stochastic_depth_rate": [0.1, 0.2]}  # fmt: skip
    (tmp_path / "vgg.yaml").write_text(yaml.safe_dump(config))
    file, note = save_stock(tmp_path / "vgg.yaml", 3, tmp_path / "stock")
    assert note == " (conv2d front end)"
    for front_end in ({"input_layer": "dw_striding", "subsampling_factor": 8},
                      {"input_layer": "conv2d", "subsampling_channels": 5},
                      {"input_layer": "conv2d", "upsampling_factor": 2}):  # fmt: skip
        stock, other = stock_config(config | {"encoder_conf": front_end}, 3)
        assert other == note and stock["encoder_conf"]["input_layer"] == "conv2d"
        assert "subsampling_channels" not in stock["encoder_conf"]
    model, args = load_model(file.with_name("config.yaml"), file)
    assert type(model.encoder) is ConformerEncoder and args.model == "espnet"
    assert len(model.encoder.encoders) == 3 and model.encoder.output_size() == 8
    assert isinstance(model.encoder.encoders[0].conv_module.norm, torch.nn.BatchNorm1d)
    config["encoder_conf"]["attention_heads"] = 3  # does not divide 8
    (tmp_path / "heads.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="stock_blocks: 3: .*heads.yaml"):
        save_stock(tmp_path / "heads.yaml", 3, tmp_path / "heads")
    assert not (tmp_path / "heads").exists()


def test_what_cannot_be_reported_is_refused_first(supernet, tmp_path):
    from espnet_des.measure.report import report

    config, model_file = files(supernet)
    for key, value in (("stock_blocks", [4, 0]), ("seconds", 0.5), ("seconds", float("nan")),
                       ("rounds", 0)):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{key}: "):
            report(config, model_file, tmp_path / "out", **{key: value})
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(ConfigError, match="output_dir: .*file.* cannot be written"):
            report(config, model_file, place)
    state = load(supernet / "3epoch.pth")
    state["encoder.selection.ranking"].zero_()
    torch.save(state, tmp_path / "stage1.pth")
    with pytest.raises(ConfigError, match="stage 1"):
        report(config, tmp_path / "stage1.pth", tmp_path / "out")
    with pytest.raises(ConfigError, match="absent.yaml"):
        report(tmp_path / "absent.yaml", model_file, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"subnets: .*kept_layers.* for size 3"):
        report(config, model_file, tmp_path / "out", subnets={3: model_file})
    content = yaml.safe_load(config.read_text())
    (tmp_path / "rnn.yaml").write_text(yaml.safe_dump(content | {"encoder": "rnn"}))
    with pytest.raises(ConfigError, match="encoder: 'rnn' cannot be measured"):
        report(tmp_path / "rnn.yaml", model_file, tmp_path / "out")
    extract_subnet(config, model_file, 3, tmp_path / "size3")
    content = yaml.safe_load((tmp_path / "size3/config.yaml").read_text())
    content |= {"model_conf": {"ctc_weight": 0.0}, "decoder": "transformer"}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="one.yaml: .*ctc_weight"):
        report(tmp_path / "one.yaml", tmp_path / "size3" / model_file.name, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_command_says_what_is_wrong(supernet, tmp_path):
    done = command(supernet, tmp_path / "out", "--stock_blocks", "4", "-1")
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "stock_blocks: -1 must be at least 1, such as 4 8 12"
    )
    assert not (tmp_path / "out").exists()
