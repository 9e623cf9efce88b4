"""Transducers through ESPnet's commands: trained, resumed, decoded at every size, extracted."""

import math
import zipfile

import pytest
import torch
import yaml

import espnet2.bin.asr_inference as stock
import espnet_des
from espnet_des.deploy.extract import extract_subnet
from espnet_des.errors import ConfigError
from espnet_des.inference.best_path import BestPathDecoder
from espnet_des.nn.transducer import MultiBlankLoss, RNNTLoss
from tests.train import TOKENS, assert_same, load, start, train_here

SIZES = [3, 5, 8]
# ESPnet's LibriSpeech-100 YAML with small widths.
TRANSDUCER = {
    "decoder": "transducer",
    "decoder_conf": {"rnn_type": "lstm", "num_layers": 1, "hidden_size": 8, "dropout": 0.1,
                     "dropout_embed": 0.2},
    "joint_net_conf": {"joint_space_size": 8},
    "model_conf__ctc_weight": 0.3,
    "model_conf__report_cer": False,
    "model_conf__report_wer": False,
    "best_model_criterion": [["valid", "loss", "min"]],
}  # fmt: skip
MULTI_BLANK = TRANSDUCER | {
    "model_conf__ctc_weight": 0.0,
    "model_conf__transducer_multi_blank_durations": [2, 3],
    "model_conf__transducer_multi_blank_sigma": 0.05,
}
KINDS = {
    "transducer": (TRANSDUCER, {"search_type": "default", "score_norm": True}),
    "multi-blank": (MULTI_BLANK, {"search_type": "mbg"}),
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, data, tmp_path_factory):
    """Kind of a transducer, and the folder of its training, across the stages."""
    folder = tmp_path_factory.mktemp("trained")
    return request.param, train_here(data, folder, max_epoch=4, **KINDS[request.param][0])


def recogniser(kind, folder, of=espnet_des.Speech2Text, **options):
    options |= {"transducer_conf": KINDS[kind][1], "beam_size": 3}
    return of(str(folder / "config.yaml"), str(folder / "valid.loss.ave.pth"), **options)


def test_every_size_is_trained(trained):
    kind, exp = trained
    reporter = load(exp / "checkpoint.pth")["reporter"]["stats"]
    for phase in ("train", "valid"):
        for suffix in ("", "_size3", "_size5"):
            last = reporter[4][phase]
            assert math.isfinite(last[f"loss_transducer{suffix}"])
            assert (f"loss_ctc{suffix}" in last) == (kind == "transducer")
    assert reporter[4]["train"]["stage"] == 2.0
    known = [name for name in load(exp / "4epoch.pth") if name.startswith("ctc.")]
    assert bool(known) == (kind == "transducer")
    blanks = ["<blank3>", "<blank2>"] if kind == "multi-blank" else []
    assert yaml.safe_load((exp / "config.yaml").read_text())["token_list"] == blanks + TOKENS


def test_an_extracted_size_recognises_as_the_supernet(trained, tmp_path):
    """With ESPnet's own Speech2Text and the transducer's search, and from an archive."""
    kind, exp = trained
    whole, noise = recogniser(kind, exp), [0.1 * torch.randn(n) for n in (4000, 3000)]
    for size in SIZES:
        extract_subnet(
            exp / "config.yaml", exp / "valid.loss.ave.pth", size, tmp_path / f"{size}"
        )
        alone = recogniser(kind, tmp_path / f"{size}", stock.Speech2Text)
        whole.set_size(size)
        for speech in noise:
            (text, _, ids, one), *_ = whole(speech)
            other = alone(speech)[0]
            assert (text, ids, one.yseq) == (other[0], other[2], other[3].yseq)
            assert float(one.score) == float(other[3].score)
    # A packed size is the same again.
    import espnet2.bin.pack as pack

    pack.main(["asr", "--asr_train_config", str(tmp_path / "5/config.yaml"),
               "--asr_model_file", str(tmp_path / "5/valid.loss.ave.pth"),
               "--outpath", str(tmp_path / "packed.zip")])  # fmt: skip
    assert zipfile.is_zipfile(tmp_path / "packed.zip")
    conf = {"transducer_conf": KINDS[kind][1], "beam_size": 3}
    packed = espnet_des.Speech2Text.from_pretrained(tmp_path / "packed.zip", **conf)
    whole.set_size(5)
    assert float(packed(noise[0])[0][3].score) == float(whole(noise[0])[0][3].score)


def test_silence_gives_what_the_search_gives(trained):
    kind, exp = trained
    model = recogniser(kind, exp)
    found = model(0.1 * torch.randn(4000))[0]
    nothing = model(torch.zeros(4000))[0]
    assert nothing[:3] == ("", [], [])
    assert type(nothing[3]) is type(found[3])
    assert nothing[3].yseq == found[3].yseq[:1]


def test_best_path_needs_the_auxiliary_ctc(trained):
    kind, exp = trained
    model = recogniser(kind, exp)
    if kind == "transducer":
        decoder = BestPathDecoder(model.asr_model, model.asr_train_args)
        assert len(decoder([torch.randn(4000)])) == 1
    else:
        with pytest.raises(ConfigError, match=r"ctc_weight: 0\.0.*asr_inference"):
            BestPathDecoder(model.asr_model, model.asr_train_args)


def test_best_path_of_a_multi_blank_transducer_says_no_blank(data, tmp_path):
    changes = MULTI_BLANK | {"model_conf__ctc_weight": 0.3}
    exp = train_here(data, tmp_path, max_epoch=3, **changes)
    model = recogniser("multi-blank", exp)
    head = model.asr_model.ctc.ctc_lo
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[0] = 5.0  # CTC's blank, which is the longest big blank
    decoder = BestPathDecoder(model.asr_model, model.asr_train_args)
    assert decoder([torch.randn(4000)]) == [""]


def test_a_resume_goes_on(trained, data, tmp_path):
    """Of the multi-blank one ESPnet has added tokens to the config, which are no others."""
    kind, exp = trained
    train_here(data, tmp_path, max_epoch=3, **KINDS[kind][0])
    again = train_here(data, tmp_path, max_epoch=4, **KINDS[kind][0])
    assert_same(load(exp / "4epoch.pth"), load(again / "4epoch.pth"))


def test_rates_are_told_where_asked_for(data, tmp_path):
    changes = TRANSDUCER | {"model_conf__report_cer": True, "model_conf__report_wer": True,
                            "best_model_criterion": [["valid", "cer_transducer_size3", "min"]],
                            "num_att_plot": 1, "use_matplotlib": True,
                            "joint_net_conf": None}  # fmt: skip
    exp = train_here(data, tmp_path, max_epoch=3, **changes)
    assert (exp / "valid.cer_transducer_size3.ave.pth").exists()
    assert list((exp / "att_ws").rglob("*.png"))


@pytest.mark.parametrize("kind", KINDS)
def test_stock_models_train_through_the_plugin(kind, data, tmp_path):
    """From pip packages alone: in a process of its own, without a supernet."""
    changes = KINDS[kind][0] | {
        "encoder": "conformer", "encoder_conf__sizes": None, "model": "espnet",
        "model_conf__updates_per_iteration": None, "model_conf__reduction": None, "max_epoch": 1,
    }  # fmt: skip
    assert start(data, tmp_path, **changes).wait() == 0, (tmp_path / "log0.txt").read_text()
    model = stock.Speech2Text(
        tmp_path / "exp/config.yaml", tmp_path / "exp/1epoch.pth"
    ).asr_model
    right = RNNTLoss if kind == "transducer" else MultiBlankLoss
    assert isinstance(model.criterion_transducer, right)


@pytest.mark.parametrize("changes, says", [
    ({"joint_net_conf": [8]}, r"joint_net_conf: \[8\] must hold keys"),
    ({"model_conf__transducer_multi_blank_durations": 2}, "durations: 2 must be a list"),
    ({"model_conf__transducer_multi_blank_durations": [2, 2]}, r"durations: \[2, 2\] must be"),
    ({"decoder": None, "decoder_conf": None, "model_conf__ctc_weight": 1.0,
      "model_conf__transducer_multi_blank_durations": [2]}, "is of transducers"),
    ({"best_model_criterion": [["valid", "cer_transducer", "min"]]},
     "valid.cer_transducer is never reported"),
])  # fmt: skip
def test_what_cannot_be_meant_is_named_before_anything_is_written(
    changes, says, data, tmp_path
):
    with pytest.raises(ConfigError, match=says):
        train_here(data, tmp_path, **(TRANSDUCER | changes))
    assert not (tmp_path / "exp/config.yaml").exists()
