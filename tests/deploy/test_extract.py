"""Extracted sizes: equal to the supernet, no larger than they must be, checked."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_des.deploy.extract import extract_subnet, subnet_state
from espnet_des.errors import ConfigError
from espnet_des.nn.encoders import SubnetConformerEncoder
from espnet_des.utils.audio import AudioError
from tests.conftest import TINY, make_model
from tests.train import CONFIG, load, make_data, train_here


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """A trained hybrid supernet; its experiment folder."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    return train_here(
        folder, folder, max_epoch=3, model_conf__ctc_weight=0.3, decoder="transformer",
        decoder_conf={"attention_heads": 2, "linear_units": 8, "num_blocks": 1},
    )  # fmt: skip


def extract(supernet, size, out):
    return extract_subnet(
        supernet / "config.yaml", supernet / "valid.cer_ctc.ave.pth", size, out
    )


@pytest.mark.parametrize("size", [3, 5, 8])
def test_an_extracted_size_is_the_supernet_at_that_size(supernet, tmp_path, size):
    from espnet_des.inference.loading import load_model

    file = extract(supernet, size, tmp_path)
    whole, _ = load_model(supernet / "config.yaml", supernet / "valid.cer_ctc.ave.pth")
    part, args = load_model(tmp_path / "config.yaml", file)
    assert (args.model, args.encoder) == ("espnet", "des_conformer_subnet")
    whole.set_size(size)
    whole.eval(), part.eval()
    speech, lengths = torch.randn(2, 4000), torch.tensor([4000, 3100])
    (a, n), (b, m) = whole.encode(speech, lengths), part.encode(speech, lengths)
    assert torch.equal(a, b) and torch.equal(n, m)
    assert torch.equal(whole.ctc.log_softmax(a), part.ctc.log_softmax(b))
    count = sum(p.numel() for p in part.encoder.parameters())
    assert count == whole.encoder.count_parameters(size)
    assert sum(v.numel() for v in load(file).values()) < sum(
        v.numel() for v in whole.state_dict().values()
    )


@pytest.mark.parametrize("conf", [{"macaron_style": False}, {"use_cnn_module": False},
                                  {"layer_order": "paper", "conv_norm": "batch_norm"},
                                  {"concat_after": True, "input_layer": "vgg"}])  # fmt: skip
def test_any_kind_of_encoder_can_be_extracted(conf):
    model = make_model(conf).eval()
    with torch.no_grad():
        model.encoder.scores.normal_()
    size = model.encoder.sizes[1]
    model.set_size(size)
    kept = model.encoder.kept_layers(size)
    subnet = SubnetConformerEncoder(12, kept_layers=kept, **(TINY | conf)).eval()
    state = subnet_state(model, size)
    encoder_state = {
        k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")
    }
    subnet.load_state_dict(encoder_state)
    x, lengths = torch.randn(2, 30, 12), torch.tensor([30, 21])
    assert torch.equal(model.encoder(x, lengths)[0], subnet(x, lengths)[0])
    assert subnet.num_layers == size


def test_with_all_layers_it_is_a_stock_conformer():
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

    stock = ConformerEncoder(12, **TINY).eval()
    plain = SubnetConformerEncoder(12, conv_norm="batch_norm", **TINY).eval()
    plain.load_state_dict(stock.state_dict())
    x, lengths = torch.randn(2, 30, 12), torch.tensor([30, 21])
    assert torch.equal(stock(x, lengths)[0], plain(x, lengths)[0])
    # Blocks start apart, as those of a model that is trained on its own must.
    fresh = SubnetConformerEncoder(12, **TINY)
    one, two = (block.feed_forward.w_1.weight for block in fresh.encoders)
    assert not torch.equal(one, two)


def test_a_checkpoint_that_does_not_fit_is_refused_even_without_strict(supernet, tmp_path):
    from espnet_des.inference.loading import load_model

    file = extract(supernet, 3, tmp_path)
    state = load(file)
    removed = next(k for k in state if k.startswith("encoder.encoders."))
    torch.save({k: v for k, v in state.items() if k != removed}, tmp_path / "cut.pth")
    with pytest.raises(ConfigError, match="lacks 1 of the encoder's weights"):
        load_model(tmp_path / "config.yaml", tmp_path / "cut.pth")
    with pytest.raises(ConfigError, match="has besides"):
        load_model(tmp_path / "config.yaml", supernet / "valid.cer_ctc.ave.pth")


def test_damaged_and_foreign_files_are_named(supernet, tmp_path):
    from espnet_des.inference.loading import load_model

    whole = supernet / "valid.cer_ctc.ave.pth"
    content = whole.read_bytes()
    stock = {k: v for k, v in load(whole).items() if ".selection." not in k}
    torch.save(stock, tmp_path / "stock.pth")
    (tmp_path / "short.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("not a model")
    torch.save({"code": print}, tmp_path / "code.pth")  # not tensors only
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("stock", "short", "empty", "text", "code", "list", "absent"):
        with pytest.raises(ConfigError, match=f"asr_model_file: .*{name}.pth"):
            load_model(supernet / "config.yaml", tmp_path / f"{name}.pth")
    (tmp_path / "lm.yaml").write_text("lm: transformer\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    for name in ("lm", "broken", "absent"):
        with pytest.raises(ConfigError, match=f"asr_train_config: .*{name}.yaml"):
            load_model(tmp_path / f"{name}.yaml", whole)


def test_a_training_is_not_overwritten(supernet, tmp_path):
    """Neither the supernet's own, nor that of another experiment."""
    before = {p.name: p.read_bytes() for p in supernet.iterdir() if p.is_file()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other/checkpoint.pth").write_bytes(b"")
    for folder in (supernet, supernet / ".." / supernet.name, tmp_path / "other"):
        with pytest.raises(ConfigError, match="is the folder of a training.*_size3"):
            extract(supernet, 3, folder)
    assert {p.name: p.read_bytes() for p in supernet.iterdir() if p.is_file()} == before
    assert len(list((tmp_path / "other").iterdir())) == 1


def test_what_cannot_be_extracted_is_said(supernet, tmp_path):
    with pytest.raises(ConfigError, match=r"size: 4 must be one of \[3, 5, 8\]"):
        extract(supernet, 4, tmp_path)
    assert not list(tmp_path.iterdir())
    config = yaml.safe_load((supernet / "config.yaml").read_text())
    (tmp_path / "stock.yaml").write_text(yaml.safe_dump(config | {"encoder": "conformer"}))
    with pytest.raises(ConfigError, match="is no supernet"):
        extract_subnet(tmp_path / "stock.yaml", supernet / "3epoch.pth", 3, tmp_path / "x")
    state = load(supernet / "3epoch.pth")
    state["encoder.selection.ranking"].zero_()
    torch.save(state, tmp_path / "stage1.pth")
    with pytest.raises(ConfigError, match="stage 1"):
        extract_subnet(supernet / "config.yaml", tmp_path / "stage1.pth", 3, tmp_path / "x")
    for kept in ([1, 1], [2, 1], [8], "012"):
        with pytest.raises(ConfigError, match="kept_layers"):
            SubnetConformerEncoder(12, kept_layers=kept, **TINY)


def test_batchnorm_statistics_are_of_the_size_itself():
    from espnet_des.deploy.recalibrate import recalibrate

    model = make_model({"conv_norm": "batch_norm"}).eval()
    with torch.no_grad():
        model.encoder.scores.copy_(torch.linspace(1, 0, 8))
    model.set_size(5)  # layers 0 to 4: the first block's convolution only
    before = {k: v.clone() for k, v in model.state_dict().items()}
    seen = []
    norm = model.encoder.encoders[0].conv_module.norm
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    batches = [(torch.randn(n, 40, 12), torch.full((n,), 40)) for n in (3, 1)]
    assert recalibrate(model, batches) == sum(x.size(0) * x.size(2) for x in seen)
    weights = torch.tensor([3.0, 1.0]) / 4  # equal lengths: by utterances
    for name, of in (("mean", lambda x: x.mean((0, 2))), ("var", lambda x: x.var((0, 2)))):
        expected = sum(w * of(x) for w, x in zip(weights, seen))
        torch.testing.assert_close(getattr(norm, f"running_{name}_size5"), expected)
    after = model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    own = "encoder.encoders.0.conv_module.norm"
    assert changed == {
        f"{own}.running_mean_size5",
        f"{own}.running_var_size5",
        f"{own}.num_batches_tracked",
    }
    assert norm.momentum == 0.1 and not any(m.training for m in model.modules())
    with pytest.raises(ConfigError, match="recalibrate_scp: it has no audio"):
        recalibrate(model, [])
    with pytest.raises(ConfigError, match="recalibrate_scp: this size has no BatchNorm"):
        recalibrate(make_model({"conv_norm": "layer_norm"}), batches)


@torch.no_grad()
def test_with_weights_of_its_own_a_size_has_statistics_of_what_they_give():
    from espnet_des.deploy.recalibrate import recalibrate

    model = make_model({"conv_norm": "batch_norm", "own_weights": True})
    model.state.freeze(torch.arange(8))
    for added in model.encoder.own.parameters():
        added.normal_(std=0.3)
    model.set_size(5)
    seen = []
    norm = model.encoder.encoders[0].conv_module.norm
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    batches = [(torch.randn(n, 40, 12), torch.full((n,), 40)) for n in (3, 1)]
    recalibrate(model, batches)
    expected = (3 * seen[0].mean((0, 2)) + seen[1].mean((0, 2))) / 4
    torch.testing.assert_close(norm.running_mean_size5, expected)
    assert norm.momentum == 0.1 and not norm.training
    model.encoder.own.start()
    model.eval().encode(*batches[0])
    assert not torch.allclose(seen[-1], seen[0])


@torch.no_grad()
@pytest.mark.parametrize("own_weights", [False, True])
def test_a_size_between_gets_statistics_of_its_own(own_weights):
    """Its mean of others' is no place to write to."""
    from espnet_des.deploy.recalibrate import recalibrate

    conf = {"sizes": "any", "smallest_size": 2, "own_weights": own_weights}
    model = make_model(conf).eval()
    model.state.freeze(torch.arange(8))
    between = next(z for z in range(3, 8) if z not in model.encoder.sizes)
    before = subnet_state(model, between)
    others = {z: subnet_state(model, z) for z in model.encoder.sizes}
    model.set_size(between)
    seen = []
    norm = model.encoder.encoders[0].conv_module.norm
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    recalibrate(model, [(torch.randn(n, 40, 12), torch.full((n,), 40)) for n in (3, 1)])
    after = subnet_state(model, between)
    assert before.keys() == after.keys()
    mean = "encoder.encoders.0.conv_module.norm.running_mean"
    expected = (3 * seen[0].mean((0, 2)) + seen[1].mean((0, 2))) / 4
    torch.testing.assert_close(after[mean], expected)
    assert not torch.allclose(before[mean], expected)
    for size, state in others.items():
        for key, value in subnet_state(model, size).items():
            assert torch.equal(value, state[key]) or key.endswith("num_batches_tracked")


@pytest.mark.thorough
def test_extraction_recalibrates_with_audio(tmp_path):
    from espnet_des.inference.loading import load_model

    make_data(tmp_path)
    exp = train_here(tmp_path, tmp_path, max_epoch=3, encoder_conf__conv_norm="batch_norm")
    command = [sys.executable, "-m", "espnet_des.bin.extract_subnet",
               "--asr_train_config", exp / "config.yaml", "--size", "8",
               "--asr_model_file", exp / "valid.cer_ctc.ave.pth"]  # fmt: skip
    scp = ["--recalibrate_scp", tmp_path / "wav.scp"]
    for name, more in (("plain", []), ("recalibrated", scp)):
        subprocess.run([*command, "--output_dir", tmp_path / name, *more], check=True)
    plain, new = (
        load(tmp_path / n / "valid.cer_ctc.ave.pth") for n in ("plain", "recalibrated")
    )
    assert plain.keys() == new.keys()
    changed = {k.rsplit(".")[-1] for k in plain if not torch.equal(plain[k], new[k])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    load_model(
        tmp_path / "recalibrated/config.yaml", tmp_path / "recalibrated/valid.cer_ctc.ave.pth"
    )


def test_audio_without_a_frame_is_no_audio_to_recalibrate_with(supernet, tmp_path):
    for number, samples in enumerate((0, 50, 300)):
        soundfile.write(tmp_path / f"{number}.wav", np.ones(samples) / 2, 8000)
        (tmp_path / "wav.scp").write_text(f"u {tmp_path / f'{number}.wav'}\n")
        with pytest.raises((ConfigError, AudioError), match="recalibrate_scp|no samples"):
            extract_subnet(
                supernet / "config.yaml", supernet / "valid.cer_ctc.ave.pth", 5,
                tmp_path / "out", recalibrate_scp=tmp_path / "wav.scp",
            )  # fmt: skip
        assert not (tmp_path / "out").exists()


def test_an_extracted_size_fine_tunes_with_stock_training(supernet, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    file = extract(supernet, 3, tmp_path / "size3")
    config = yaml.safe_load((tmp_path / "size3/config.yaml").read_text())
    make_data(tmp_path)
    exp = train_here(
        tmp_path, tmp_path, max_epoch=1, init_param=[str(file)],
        **{k: config[k] for k in ("encoder", "encoder_conf", "model", "model_conf",
                                  "decoder", "decoder_conf")},
    )  # fmt: skip
    start, end = load(file), load(exp / "1epoch.pth")
    assert start.keys() == end.keys()
    assert not torch.equal(start["ctc.ctc_lo.weight"], end["ctc.ctc_lo.weight"])


def test_beam_search_of_an_extracted_size_and_of_the_supernet_agree(supernet, tmp_path):
    """The scorers keep references: the size must be switched inside them."""
    from espnet2.bin.asr_inference import Speech2Text

    options = {"beam_size": 3, "ctc_weight": 0.5, "maxlenratio": -4}
    whole = Speech2Text(
        supernet / "config.yaml", supernet / "valid.cer_ctc.ave.pth", **options
    )
    speech = torch.randn(4000).numpy()
    for size in (3, 5, 8):
        file = extract(supernet, size, tmp_path / str(size))
        part = Speech2Text(tmp_path / str(size) / "config.yaml", file, **options)
        whole.asr_model.set_size(size)
        one, two = whole(speech)[0], part(speech)[0]
        assert one[2] == two[2] and float(one[3].score) == float(two[3].score)


def test_command_line(supernet, tmp_path):
    command = [sys.executable, "-m", "espnet_des.bin.extract_subnet",
               "--asr_train_config", supernet / "config.yaml",
               "--asr_model_file", supernet / "valid.cer_ctc.ave.pth",
               "--output_dir", tmp_path / "out", "--size"]  # fmt: skip
    done = subprocess.run([*command, "7"], capture_output=True, text=True)
    assert done.returncode == 1 and "size: 7 must be one of [3, 5, 8]" in done.stderr
    assert not (tmp_path / "out").exists()
    assert CONFIG["encoder"] == "des_conformer"
    assert subprocess.run([*command, "3"]).returncode == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "config.yaml", "valid.cer_ctc.ave.pth"}  # fmt: skip


def test_the_full_size_is_never_allocated():
    code = """
from espnet_des.utils.machine import memory, reset_peak_memory
from espnet_des.nn.encoders import SubnetConformerEncoder
conf = dict(output_size=512, linear_units=2048, num_blocks=12, macaron_style=True,
            rel_pos_type="latest", input_layer="vgg", max_pos_emb_len=100)
def grown(kept):
    reset_peak_memory()
    before = memory("VmRSS")
    encoder = SubnetConformerEncoder(80, kept_layers=kept, **conf)
    own = sum(p.numel() * p.element_size() for p in encoder.parameters())
    return memory("VmHWM") - before, own
grown([0])  # torch's own code, read when it is first used
print(*grown([2, 6, 10, 14]), *grown(None))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, own, full_peak, full = map(int, done.stdout.split())
    one_block = full / 12
    assert (
        full_peak > 0.5 * full
    )  # the measure sees it, though pages of files may go meanwhile
    assert peak < own + 2 * one_block + 20e6 < full / 2
