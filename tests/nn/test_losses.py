"""Losses of a pass: those of ESPnet's forward, at every size, under ESPnet's names."""

import math

import pytest
import torch

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.errors import ConfigError
from espnet_des.method.selection import Schedule
from tests.conftest import make_batch, make_model, under_ddp

SCHEDULE = Schedule((4, 4), (3, 5))
QUIET = {"report_cer": False, "report_wer": False}
MULTI_BLANK = {"transducer_multi_blank_durations": [2, 3]} | QUIET
SIZES = {3: "_size3", 5: "_size5", 8: ""}
# Losses of a transducer, and of exits.
KINDS = {
    "transducer": ({}, {"transducer": True}),
    "without rates": ({}, {"transducer": True, "ctc_weight": 0.3} | QUIET),
    "without CTC": ({}, {"transducer": True, "ctc_weight": 0.0}),
    "CTC in full": ({}, {"transducer": True, "ctc_weight": 1.0} | QUIET),
    "multi-blank": ({}, {"transducer": True, "ctc_weight": 0.0} | MULTI_BLANK),
    "attention alone": ({}, {"decoder": True, "ctc_weight": 0.0}),
    "exit": ({"interctc_layer_idx": [1]}, {"interctc_weight": 0.4}),
    "exits of a hybrid": (
        {"interctc_layer_idx": [1, 2], "num_blocks": 3, "sizes": [3, 5, 12]},
        {"interctc_weight": 0.4, "decoder": True},
    ),
    "exit of a transducer": (
        {"interctc_layer_idx": [1]}, {"interctc_weight": 0.4, "transducer": True} | QUIET,
    ),
    "exit without a loss": ({"interctc_layer_idx": [1]}, {}),
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)


def batch_of(model, **kwargs):
    """Behind the big blanks the tokens have other ids."""
    batch = make_batch(**kwargs)
    batch["text"] = batch["text"] + model.blank_id * (batch["text"] >= 0)
    return batch


def model_of(kind, **more):
    encoder_conf, conf = KINDS[kind]
    return make_model(encoder_conf, SCHEDULE, **(conf | more))


@kinds
def test_every_size_has_the_losses_and_rates_of_espnets_forward(kind):
    model = model_of(kind).eval()
    model.state.freeze(torch.arange(model.encoder.num_layers))  # stage 1 has no middle size
    batch = batch_of(model)
    loss, stats, _ = model(**batch)
    expected = 0.0
    for size in model.encoder.sizes:
        model.set_size(size)
        text = {name: batch[name].clone() for name in ("text", "text_lengths")}
        theirs, of_size, _ = ESPnetASRModel.forward(model, **(batch | text))
        expected = expected + (1.0 if size == model.encoder.num_layers else 0.3) * theirs
        suffix = "" if size == model.encoder.num_layers else f"_size{size}"
        for name, value in of_size.items():
            if value is not None and name != "loss":
                mine = stats[name + suffix].double().reshape(())
                torch.testing.assert_close(mine, value.double().reshape(()), equal_nan=True)
    torch.testing.assert_close(loss, expected.reshape(1))


@kinds
def test_names_are_those_of_both_stages(kind):
    """In training stage 1 has no middle sizes."""
    model = model_of(kind)
    found = {True: set(), False: set()}
    for stage in (1, 2):
        if stage == 2:
            model.state.freeze(torch.arange(model.encoder.num_layers))
        for training in (True, False):
            found[training] |= set(model.train(training)(**batch_of(model))[1])
    for training, names in found.items():
        assert names == model.names_of_stats(training)


@kinds
@pytest.mark.parametrize("stage", [1, 2])
@under_ddp()
def test_every_parameter_takes_part(kind, stage):
    model = model_of(kind).train()
    if stage == 2:
        model.state.freeze(torch.arange(model.encoder.num_layers))
        model.state.updates.fill_(9)
    model(**batch_of(model))[0].backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    assert not silent
    for part in ("decoder", "joint_network"):
        module = getattr(model, part, None)
        assert module is None or all(p.grad.any() for p in module.parameters()
                                     if p.dim() > 1)  # fmt: skip


def test_rates_of_a_transducer_at_every_size():
    names = model_of("transducer").names_of_stats(training=False)
    for suffix in SIZES.values():
        assert {f"cer_transducer{suffix}", f"wer_transducer{suffix}"} <= names
        assert f"loss_transducer{suffix}" in names
        assert f"cer_ctc{suffix}" not in names  # ESPnet tells it instead of the others
    names = model_of("without rates").names_of_stats(training=False)
    assert "cer_ctc_size3" in names
    assert not any("cer_transducer" in name or name == "acc" for name in names)
    only_wer = make_model(transducer=True, report_cer=False).eval()
    stats = only_wer(**make_batch())[1]
    assert "wer_transducer" in stats
    assert "cer_transducer" not in stats


def test_exits_belong_to_the_full_size_alone():
    names = model_of("exit").names_of_stats(training=False)
    assert {n for n in names if "inter" in n} == {
        "loss_interctc_layer1",
        "cer_interctc_layer1",
    }
    model, batch = model_of("exit").eval(), make_batch()
    for size, exits in ((8, True), (3, False)):
        model.set_size(size)
        out, _ = model.encode(batch["speech"], batch["speech_lengths"])
        assert isinstance(out, tuple) == exits


def test_exits_can_say_something_else():
    """ESPnet's aux_ctc: labels of an exit by its number, from data of their own."""
    conf = {"interctc_weight": 0.4, "aux_ctc": {"1": "phones"}}
    model, batch = make_model({"interctc_layer_idx": [1]}, **conf).eval(), make_batch()
    phones = {"phones": torch.tensor([[3, -1], [4, 2], [2, -1]]),
              "phones_lengths": torch.tensor([1, 2, 1])}  # fmt: skip
    stats = model(**batch, **phones)[1]
    model.set_size(8)
    theirs = ESPnetASRModel.forward(model, **batch, **phones)[1]
    for name in ("loss_interctc_layer1", "cer_interctc_layer1", "loss_ctc"):
        torch.testing.assert_close(
            stats[name].double(), theirs[name].double().reshape(1), msg=name
        )
    with pytest.raises(ConfigError, match="aux_ctc: .* block 1 from 'phones'"):
        model(**batch)


def test_batches_without_words_have_no_rates():
    model, batch = model_of("transducer").eval(), make_batch()
    batch["text"] = torch.full((3, 1), 5)
    batch["text_lengths"] = torch.ones(3, dtype=torch.long)
    stats = model(**batch)[1]
    assert math.isnan(stats["cer_transducer_size3"].item())
    assert math.isfinite(stats["loss_transducer"].item())


@pytest.mark.parametrize("kind", ["transducer", "multi-blank"])
@under_ddp()
def test_audio_that_is_too_short_and_texts_that_are_empty_train(kind):
    model, batch = model_of(kind, **QUIET).train(), make_batch()
    batch["speech"] = torch.randn(3, 2, 12)
    batch["speech_lengths"] = torch.tensor([2, 1, 2])
    batch["text"], batch["text_lengths"] = torch.full((3, 1), -1), torch.zeros(3).long()
    loss = model(**batch)[0]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_only_ctc_warns_of_texts_that_do_not_fit(monkeypatch):
    told = []
    for kind in ("without CTC", "transducer"):
        model, batch = model_of(kind).eval(), make_batch(frames=9)
        monkeypatch.setattr(model.unusable, "tell", lambda *args, kind=kind: told.append(kind))
        model(**batch, utt_id=["a", "b", "c"])
    assert told == ["transducer"]


def test_the_ctc_of_a_multi_blank_transducer_has_its_own_blank():
    """ESPnet's is the first token, which is a big blank here, in the loss and in the rate."""
    model = make_model(transducer=True, **MULTI_BLANK)
    assert model.error_calculator.calculator.idx_blank == 0


@pytest.mark.parametrize("encoder_conf, conf, says", [
    ({}, {"ctc_weight": -0.1}, r"ctc_weight: -0\.1 must be from 0"),
    ({}, {"ctc_weight": 0.0}, "ctc_weight: 0.0 .* there is none"),
    ({}, {"interctc_weight": 0.3}, r"interctc_weight: 0\.3 .* interctc_layer_idx"),
    ({"interctc_layer_idx": [1]}, {"interctc_weight": 1.0}, r"interctc_weight: 1\.0 must be"),
    ({"interctc_layer_idx": [1]},
     {"interctc_weight": 0.3, "ctc_weight": 0.0, "transducer": True}, "ctc_weight: 0.0 leaves"),
    ({"interctc_layer_idx": [1]}, {"aux_ctc": {"1": "x"}}, r"aux_ctc: .* are \[\] here"),
    ({"interctc_layer_idx": [1]}, {"interctc_weight": 0.3, "aux_ctc": {"2": "x"}},
     r"aux_ctc: \{'2': 'x'\} .* \['1'\]"),
    ({"interctc_layer_idx": [2]}, {}, r"interctc_layer_idx: \[2\] must be .* from 1 to 1"),
    ({"interctc_layer_idx": ["a"]}, {}, r"interctc_layer_idx: \['a'\] must be"),
    ({}, {"transducer": True, "transducer_multi_blank_durations": [2]}, "report_cer: True"),
    ({}, {"transducer": True} | MULTI_BLANK | {"transducer_multi_blank_durations": [1]},
     r"durations: \[1\] must be"),
    ({}, {"transducer": True} | MULTI_BLANK | {"transducer_multi_blank_sigma": -1.0},
     r"sigma: -1\.0 must be"),
])  # fmt: skip
def test_what_cannot_be_meant_is_named(encoder_conf, conf, says):
    with pytest.raises(ConfigError, match=says):
        make_model(encoder_conf, **conf)


@pytest.mark.parametrize("parts", [{}, {"decoder": True}, {"transducer": True} | QUIET])
def test_own_exits_are_espnets_at_a_third_and_two_thirds_of_the_blocks(parts):
    sizes = {"num_blocks": 3, "sizes": [3, 5, 12]}
    own = make_model(sizes, SCHEDULE, exit_weight=0.4, **parts)
    with_exits = sizes | {"interctc_layer_idx": [1, 2]}
    espnets = make_model(with_exits, SCHEDULE, interctc_weight=0.4, **parts)
    espnets.load_state_dict(own.state_dict())
    for training in (True, False):
        batch, found = make_batch(), []
        for model in (own, espnets):
            torch.manual_seed(0)
            loss, stats, _ = model.train(training)(**batch)
            found.append((loss, {k: v for k, v in stats.items() if v is not None}))
        torch.testing.assert_close(*found, equal_nan=True)
    # Whoever recognises gets no exits that he has not asked for.
    assert not isinstance(own.encode(batch["speech"], batch["speech_lengths"])[0], tuple)


def test_an_encoder_of_one_block_has_no_exits():
    conf = {"num_blocks": 1, "sizes": [2, 4]}
    model = make_model(conf, Schedule((4,), (2,)), exit_weight=0.4)
    assert model.exits == [] and model.interctc_weight == 0.0
