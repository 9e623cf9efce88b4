"""ONNX: the exported form is the model, at every length, alone and in a batch."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy
import onnx
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2.asr.ctc import CTC
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet_des.deploy.onnx import modules
from espnet_des.deploy.onnx.graph import CTCGraph, export, run, session
from espnet_des.deploy.onnx.reference import compare, references
from espnet_des.errors import ConfigError
from espnet_des.nn.encoders import SubnetConformerEncoder
from tests.conftest import TINY, TOKENS
from tests.train import ROOT


def make_model(kept=(1, 2, 6, 7), frontend=None, dim=12, **conf):
    """A model of one size, with what an export asks of an ESPnet model."""
    torch.manual_seed(1)
    conf = TINY | {"input_layer": "conv2d"} | conf
    encoder = SubnetConformerEncoder(dim, kept_layers=list(kept), **conf).eval()
    for module in encoder.modules():  # as trained ones: not 1 and 0
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    ctc = CTC(len(TOKENS), encoder.output_size()).eval()
    return SimpleNamespace(
        encoder=encoder, ctc=ctc, frontend=frontend, normalize=UtteranceMVN(),
        preencoder=None, postencoder=None,
    )  # fmt: skip


def noise(*samples):
    """Waveforms padded with noise: nothing may see it."""
    return torch.randn(len(samples), max(samples)) * 0.1, torch.tensor(samples)


@torch.no_grad()
def features(frontend, waves, lengths):
    """Of each utterance alone, padded with zeros."""
    rows = [frontend(w[None, :n], n[None])[0][0] for w, n in zip(waves, lengths)]
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


@torch.no_grad()
def expected(model, feats, lengths):
    x, _ = model.normalize(feats.clone(), lengths)
    out, out_lengths, _ = model.encoder(x, lengths)
    return model.ctc.log_softmax(out), out_lengths


def assert_equal(got, want, atol=2e-5):
    (log_probs, lengths), (theirs, their_lengths) = got, want
    assert lengths.tolist() == their_lengths.tolist()
    for mine, other, n in zip(log_probs, theirs, lengths.tolist()):
        numpy.testing.assert_allclose(mine[:n], other[:n], atol=atol, rtol=1e-4)


KINDS = [
    {"input_layer": "conv2d1"}, {"input_layer": "conv2d2"}, {"input_layer": "conv2d6"},
    {"input_layer": "conv2d8"}, {"input_layer": "linear"}, {"input_layer": "vgg"},
    {"conv_norm": "batch_norm"}, {"layer_order": "paper"}, {"rel_pos_type": "legacy"},
    {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"},
    {"pos_enc_layer_type": "scaled_abs_pos", "selfattention_layer_type": "selfattn"},
    {"concat_after": True}, {"macaron_style": False, "kept": (0, 1, 5)},
    {"use_cnn_module": False, "kept": (0, 1, 5)}, {"input_layer": "vgg", "dim": 13},
    {"input_layer": "dw_striding", "subsampling_channels": 6, "dim": 13},
    {"input_layer": "dw_striding", "subsampling_channels": 6, "subsampling_factor": 8},
    {"input_layer": "conv2d", "subsampling_channels": 5},
    {"input_layer": "dw_striding", "subsampling_factor": 8, "upsampling_factor": 2},
]  # fmt: skip
# For float and for int8, whose products are quantised later.
BOTH_FORMS = pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])


def features_for(conf):
    """Enough of them for every kind of subsampling."""
    wide = conf.get("input_layer") in ("conv2d6", "conv2d8")
    return 40 if wide else conf.get("dim", 12)


@BOTH_FORMS
@pytest.mark.parametrize("conf", KINDS, ids=str)
def test_the_exported_form_is_the_model(conf, int8):
    model = make_model(**conf | {"dim": features_for(conf)})
    graph = CTCGraph(copy.deepcopy(model), "features", int8)
    for frames in ((40,), (97, 60, 33), (41, 40)):
        feats = torch.randn(len(frames), max(frames), model.encoder.input_size)
        lengths = torch.tensor(frames)
        with torch.no_grad():
            assert_equal(graph(feats, lengths), expected(model, feats, lengths))


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"center": False},
        {"normalized": True},
        {"window": None},
        {"win_length": 300, "n_fft": 400},
        {"hop_length": 100, "fmin": 60, "htk": True},
    ],
    ids=str,
)
def test_features_are_those_of_espnet(conf):
    frontend = DefaultFrontend(**({"n_fft": 512, "win_length": 400, "hop_length": 160,
                                   "n_mels": 12} | conf))  # fmt: skip
    mine = modules.LogMel(frontend)
    waves, lengths = noise(9000, 5123, 8999, 700)
    (got, n), (want, m) = mine(waves, lengths), features(frontend, waves, lengths)
    assert n.tolist() == m.tolist() and got.shape == want.shape
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-4)


# From just enough for a frame of conv2d8; some end shortly before the longest.
LENGTHS = (1120, 5000, 4999, 1700, 15990, 15900, 16000)


@BOTH_FORMS
@pytest.mark.parametrize(
    "conf", [c for c in KINDS if c.get("rel_pos_type") != "legacy"], ids=str
)
def test_a_row_of_a_batch_is_the_row_alone(conf, int8):
    """With legacy positions it is not: they depend on the padding, as ESPnet's do."""
    wide = features_for(conf)
    frontend = DefaultFrontend(n_fft=256, hop_length=80, n_mels=wide)
    model = make_model(**conf | {"dim": wide}, frontend=frontend)
    graph = CTCGraph(copy.deepcopy(model), "waveform", int8).double()
    waves, lengths = noise(*LENGTHS)
    waves = waves.double()
    with torch.no_grad():
        log_probs, out_lengths = graph(waves, lengths)
        for row, n, wave, length in zip(log_probs, out_lengths, waves, lengths):
            alone, m = graph(wave[None, :length], length[None])
            assert m.item() == n.item() == alone.size(1)
            torch.testing.assert_close(row[:n], alone[0], atol=1e-9, rtol=0)


@torch.no_grad()
def test_exits_that_are_fed_back_are_in_the_file(tmp_path):
    model = make_model(interctc_layer_idx=[1], interctc_use_conditioning=True)
    encoder = model.encoder
    encoder.conditioning_layer = torch.nn.Linear(len(TOKENS), encoder.output_size())
    feats, lengths = torch.randn(1, 61, 12), torch.tensor([61])
    normal, _ = model.normalize(feats.clone(), lengths)
    outs = []
    for feeds_back in (False, True):
        encoder.interctc_use_conditioning = feeds_back
        (out, _), _, _ = encoder(normal, lengths, ctc=model.ctc)
        outs.append(model.ctc.log_softmax(out))
    assert not torch.allclose(*outs, atol=1e-3)
    model.frontend = lambda wave, lengths: (wave.view(1, -1, 12), lengths // 12)
    waves = [torch.randn(12 * frames) for frames in (61, 40)]
    expected = references(model, waves, "features")
    export(CTCGraph(model, "features"), tmp_path / "x.onnx", {})
    in_file = session(tmp_path / "x.onnx")
    found, _ = run(in_file, feats, lengths)
    numpy.testing.assert_allclose(found, outs[1], atol=2e-5, rtol=1e-4)
    difference, equal = compare(in_file, expected)
    assert difference < 1e-4 and equal == 1.0


@pytest.mark.parametrize(
    ("source", "input_layer", "int8"),
    [
        ("waveform", "conv2d", False),
        ("features", "vgg", True),
        ("features", "dw_striding", True),
        pytest.param("waveform", "vgg", False, marks=pytest.mark.thorough),
        pytest.param("waveform", "dw_striding", False, marks=pytest.mark.thorough),
        pytest.param("features", "conv2d", True, marks=pytest.mark.thorough),
    ],
)
def test_the_file_gives_the_model_at_every_length(tmp_path, input_layer, source, int8):
    frontend = DefaultFrontend(n_fft=512, hop_length=160, n_mels=12)
    model = make_model(input_layer=input_layer, frontend=frontend)
    path = tmp_path / "model.onnx"
    export(CTCGraph(copy.deepcopy(model), source, int8), path, {"tokens": ["a"]})
    loaded = session(path, threads=1)
    for samples in ((16000,), (1700,), (30000, 9000, 1600), (5000, 4999), LENGTHS):
        waves, lengths = noise(*samples)
        feats, frames = features(frontend, waves, lengths)
        given = (waves, lengths) if source == "waveform" else (feats, frames)
        together = run(loaded, *given)
        assert_equal(together, expected(model, feats, frames), atol=1e-3)
        # Beside PyTorch's of each alone, from the waveform.
        for number, (wave, length) in enumerate(zip(waves, lengths)):
            with torch.no_grad():
                want = expected(model, *frontend(wave[None, :length], length[None]))
            assert_equal([x[number, None] for x in together], want, atol=1e-3)
    assert loaded.get_modelmeta().custom_metadata_map["tokens"] == '["a"]'


class OtherSubsampling(torch.nn.Module):
    """Has what ESPnet's have, and is none of them."""

    def __init__(self):
        super().__init__()
        self.conv = self.convs = torch.nn.ModuleList()


def test_what_cannot_be_exported_is_said():
    with pytest.raises(ConfigError, match="source: 'mel' must be one of"):
        CTCGraph(make_model(), "mel")
    with pytest.raises(ConfigError, match="only frontend: default"):
        CTCGraph(make_model(), "waveform")
    model = make_model()
    model.preencoder = object()
    with pytest.raises(ConfigError, match="preencoder"):
        CTCGraph(model, "features")
    model = make_model()
    model.ctc = None
    with pytest.raises(ConfigError, match="ctc_weight: 0.0 leaves"):
        CTCGraph(model, "features")
    model = make_model()
    model.encoder.embed = OtherSubsampling()
    with pytest.raises(ConfigError, match="input_layer: OtherSubsampling cannot be exported"):
        CTCGraph(model, "features")
    conv = {"pos_enc_layer_type": "conv", "selfattention_layer_type": "selfattn"}
    with pytest.raises(ConfigError, match="pos_enc_layer_type"):
        CTCGraph(make_model(**conv, output_size=16), "features")


def described(message):
    """All that describes a part of an ONNX file, at any depth."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            yield value
        elif field.message_type:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from described(part)


def test_a_file_tells_nothing_of_the_machine(tmp_path):
    """Nor of how it was made; its own metadata stay."""
    from espnet_des.deploy.onnx.int8 import quantize

    frontend = DefaultFrontend(n_fft=128, hop_length=80, n_mels=40)
    wide = {"output_size": 64, "linear_units": 64, "attention_heads": 2}
    model = make_model(frontend=frontend, dim=40, **wide)
    plain, small = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    export(CTCGraph(copy.deepcopy(model), "waveform", int8=True), plain, {"tokens": ["a"]})
    quantize(plain, small)
    for file in (plain, small):
        found = onnx.load(file)
        del found.metadata_props[:]
        assert not list(described(found))
        content = file.read_bytes()
        for path in (str(ROOT), str(tmp_path), str(Path.home()), torch.__path__[0], ".py"):
            assert path.encode() not in content
        assert session(file).get_modelmeta().custom_metadata_map["tokens"] == '["a"]'
    # The mel filters stay in float.
    kinds = {node.name: node.op_type for node in onnx.load(small).graph.node}
    assert "MatMul" in {kind for name, kind in kinds.items() if name.startswith("frontend.")}


@pytest.mark.parametrize("input_layer", ["conv2d", "vgg", "dw_striding"])
def test_each_form_has_what_is_fast_in_it(tmp_path, input_layer):
    """In float convolutions, in int8 products, but for one input channel or depthwise."""
    kinds, model = {}, make_model([], input_layer=input_layer)
    for int8 in (False, True):
        file = tmp_path / f"{int8}.onnx"
        export(CTCGraph(copy.deepcopy(model), "features", int8), file, {})
        kinds[int8] = [node.op_type for node in onnx.load(file).graph.node]
    convs = {"conv2d": 2, "vgg": 4, "dw_striding": 3}[input_layer]
    assert kinds[False].count("Conv") == convs and "Gather" not in kinds[False]
    assert kinds[True].count("Conv") == (2 if input_layer == "dw_striding" else 1)


def test_int8_that_would_change_nothing_is_refused(tmp_path):
    from espnet_des.deploy.onnx.int8 import quantize

    plain, small = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    export(CTCGraph(make_model(), "features", int8=True), plain, {})
    with pytest.raises(
        ConfigError, match="quantize: int8 would leave everything in float: no m"
    ):
        quantize(plain, small)
    assert [p.name for p in tmp_path.iterdir()] == ["float.onnx"]


@pytest.mark.parametrize(
    "input_layer",
    ["conv2d", "dw_striding", pytest.param("vgg", marks=pytest.mark.thorough)],
)
def test_int8_is_close_and_gathers_bytes(tmp_path, input_layer):
    from espnet_des.deploy.onnx.int8 import quantize

    wide = {"output_size": 64, "linear_units": 64, "attention_heads": 2}
    model = make_model(range(8), input_layer=input_layer, dim=40, **wide)
    plain, small = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    graph = CTCGraph(copy.deepcopy(model), "features", int8=True)
    export(graph, plain, {"source": "features"})
    quantize(plain, small)
    assert small.stat().st_size < 0.6 * plain.stat().st_size
    graph = onnx.load(small).graph
    kinds = {node.op_type for node in graph.node}
    assert "MatMulInteger" in kinds
    quantized = {n.output[0] for n in graph.node if n.op_type == "DynamicQuantizeLinear"}
    gathered = {n.input[0] for n in graph.node if n.op_type == "Gather"}
    if input_layer != "dw_striding":  # it has no patches
        assert quantized & gathered, "the patches are made of floats"
    feats, lengths = torch.randn(2, 90, 40), torch.tensor([90, 61])
    (a, n), (b, m) = (run(session(f, 1), feats, lengths) for f in (plain, small))
    assert (
        n.tolist() == m.tolist()
        and "source" in session(small).get_modelmeta().custom_metadata_map
    )
    for row, count in enumerate(n):
        assert numpy.abs(a[row, :count] - b[row, :count]).mean() < 0.05
        # Not the same as alone: the batch's range sets the steps of each.
        alone, _ = run(session(small, 1), feats[row, None, : lengths[row]], lengths[row, None])
        assert numpy.abs(alone[0] - b[row, :count]).mean() < 0.05
