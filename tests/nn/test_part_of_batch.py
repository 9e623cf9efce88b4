"""Sizes that run on a part of the batch's utterances: unbiased, and drawn as promised."""

import itertools

import numpy
import pytest
import torch

import espnet_des.nn.model
from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from espnet_des.method.passes import Pass, on_part_of_batch
from espnet_des.method.selection import Schedule
from espnet_des.nn.distillation import Distillation
from tests.conftest import TOKENS, make_batch, make_model, without_dropout

SCHEDULE = Schedule((4, 4), (3, 5))


def drawn(t, batch, small, middle):
    passes = [Pass(8, 1.0), Pass(3, 0.3, share=small), Pass(5, 0.3, share=middle)]
    return on_part_of_batch(passes, batch, numpy.random.default_rng(t))


def test_every_utterance_is_drawn_equally_often_and_the_sizes_have_different_ones():
    counts = numpy.zeros((3, 6))
    for t in range(600):
        full, small, middle = drawn(t, 6, small=0.5, middle=1 / 3)
        assert full.rows is None
        assert len(small.rows) == 3 and len(middle.rows) == 2
        assert not set(small.rows.tolist()) & set(middle.rows.tolist())
        for number, p in enumerate((small, middle), 1):
            assert p.rows.tolist() == sorted(p.rows.tolist())
            counts[number, p.rows.numpy()] += 1
    assert abs(counts[1] - 300).max() < 60 and abs(counts[2] - 200).max() < 60


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_size_has_one_utterance_at_least_and_all_where_all_are_asked_for(batch):
    _, small, middle = drawn(0, batch, small=0.01, middle=1.0)
    assert middle.rows is None
    assert small.rows is None if batch == 1 else len(small.rows) == 1


def test_each_pass_has_the_share_of_its_option():
    model = make_model(schedule=SCHEDULE, rows_stage_1=0.2, rows_small=0.3, rows_middle=0.4)
    assert [p.share for p in model.passes(0)] == [1.0, 0.2]
    model.state.freeze(torch.randperm(8))
    assert [p.share for p in model.passes(20)] == [1.0, 0.3, 0.4]


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("stage", [1, 2])
def test_the_gradients_are_those_of_the_whole_batch_on_the_average(
    stage, decoder, monkeypatch
):
    """Over all pairs of three utterances, each as often as the others.

    BatchNorm's statistics would be those of fewer utterances.
    """
    model = make_model({"conv_norm": "layer_norm"}, schedule=SCHEDULE, decoder=decoder,
                       stochastic_depth_p2=0.0)  # fmt: skip
    without_dropout(model).train()
    batch = make_batch()
    with torch.no_grad():
        model.encoder.scores.normal_()
    model.state.updates.fill_(5 if stage == 1 else 20)
    if stage == 2:
        model.state.freeze(torch.randperm(8))

    def gradients(rows):
        def on_these(passes, *_):
            full, small, *middle = passes
            return [full, small._replace(rows=rows), *middle]

        monkeypatch.setattr(espnet_des.nn.model, "on_part_of_batch", on_these)
        model.zero_grad()
        model(**batch)[0].backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    whole = gradients(None)
    pairs = [gradients(torch.tensor(rows)) for rows in itertools.combinations(range(3), 2)]
    for name, expected in whole.items():
        mean = sum(found[name] for found in pairs) / 3
        torch.testing.assert_close(mean, expected, rtol=1e-3, atol=1e-5)
    assert any(not torch.allclose(pairs[0][n], whole[n], rtol=1e-3) for n in whole)


@pytest.mark.parametrize("kind", ["transformer", "rnn"])
@torch.no_grad()
def test_an_utterance_counts_the_same_beside_which_others_it_is_drawn(kind):
    """Also where the longest audio and text are not among them."""
    decoder = RNNDecoder(len(TOKENS), 8, hidden_size=8) if kind == "rnn" else True
    model = make_model(None, SCHEDULE, decoder=decoder).double().eval()
    batch = make_batch()  # the first utterance is the longest, in both
    batch["speech"] = batch["speech"].double()
    batch["speech_lengths"][0] += 4
    batch["speech"] = torch.nn.functional.pad(batch["speech"], (0, 0, 0, 4))
    front, targets, *_ = model._read(*batch.values(), (), None, {})
    lesson = Distillation(0.2)
    model._loss_of_pass(front, Pass(8, 1.0), targets, lesson)

    def of(*rows):
        some = Pass(3, 1.0, rows=torch.tensor(rows), kept=[0, 1, 2])
        loss, stats = model._loss_of_pass(front, some, targets, lesson)
        return torch.stack([loss, stats["loss_distillation_size3"]])

    each = [of(row) for row in range(3)]
    for rows in ((1, 2), (0, 2), (0, 1, 2)):
        torch.testing.assert_close(of(*rows), sum(each[row] for row in rows) / len(rows))


def test_a_resume_draws_the_same():
    conf = {"rows_stage_1": 0.5}
    models = [without_dropout(make_model(schedule=SCHEDULE, **conf)).train() for _ in range(2)]
    batch = make_batch()
    models[1].load_state_dict(models[0].state_dict())
    losses = []
    for seed, model in enumerate(models):
        model.state.updates.fill_(5)
        torch.manual_seed(seed)  # which is not what they are drawn with
        losses.append(model(**batch)[0])
    assert torch.equal(*losses)
