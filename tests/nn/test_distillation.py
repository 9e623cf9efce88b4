"""In-place distillation: its loss by hand, its gradients, and who learns from whom."""

import pytest
import torch

import espnet_des.task
from espnet2.asr.postencoder.abs_postencoder import AbsPostEncoder
from espnet_des.errors import ConfigError, OtherTrainingError
from espnet_des.method.options import SelectionOptions
from espnet_des.method.passes import Pass
from espnet_des.method.selection import Schedule
from espnet_des.nn.distillation import (
    Distillation,
    Logits,
    check_frames,
    distillation_loss,
    said_by,
)
from espnet_des.nn.losses import Targets
from espnet_des.task import learn_from_file
from tests.conftest import make_batch, make_model, without_dropout

SCHEDULE = Schedule((4, 4), (3, 5))


def targets(frames, labels):
    text = torch.zeros(len(labels), max(labels), dtype=torch.long)
    frames, labels = torch.tensor(frames), torch.tensor(labels)
    return Targets(text, labels, frames, labels, frames)


def test_the_loss_is_the_divergence_of_real_frames_and_tokens_per_utterance():
    teacher = Logits(torch.randn(2, 5, 4), torch.randn(2, 4, 4))
    pupil = Logits(torch.randn(2, 5, 4), torch.randn(2, 4, 4))
    found = distillation_loss(teacher, pupil, targets([5, 3], [3, 1]), 0.3)
    expected = 0.0
    for which, lengths, weight in ((0, [5, 3], 0.3), (1, [4, 2], 0.7)):
        for row, length in enumerate(lengths):
            p, q = (side[which][row, :length].softmax(-1) for side in (teacher, pupil))
            expected += weight * float((p * (p / q).log()).sum()) / 2
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(distillation_loss(teacher, teacher, targets([5, 3], [3, 1]), 0.3)) == 0.0


def at_stage_2(**conf):
    conf = {"stochastic_depth_p2": 0.0, **conf}
    model = without_dropout(make_model(schedule=SCHEDULE, **conf)).train()
    with torch.no_grad():
        for layer in model.encoder.encoders.parameters():
            layer.add_(0.3 * torch.randn_like(layer))
    model.state.updates.fill_(20)
    model.state.freeze(torch.randperm(8))
    return model


def gradients(model):
    torch.manual_seed(1)
    loss, stats, _ = model(**make_batch())
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, stats


@pytest.mark.parametrize("decoder", [False, True])
def test_the_smaller_sizes_learn_from_the_full_one_and_it_learns_nothing_from_them(decoder):
    models = [at_stage_2(distillation_weight=w, decoder=decoder) for w in (0.0, 2.0)]
    models[1].load_state_dict(models[0].state_dict())
    (without, _), (with_it, stats) = map(gradients, models)
    # The full size's output layer has no part in what its pupils learn.
    torch.testing.assert_close(with_it["ctc.ctc_lo.weight"], without["ctc.ctc_lo.weight"])
    for size in (3, 5):
        name = f"ctc.ctc_lo.heads.size{size}.weight"
        assert not torch.allclose(with_it[name], without[name])
    assert float(stats["loss_distillation_size3"]) > 0
    assert "loss_distillation" not in stats
    assert set(stats) == models[1].names_of_stats(training=True)


def test_the_loss_of_the_labels_is_told_as_without_it():
    models = [at_stage_2(distillation_weight=w) for w in (0.0, 2.0)]
    models[1].load_state_dict(models[0].state_dict())
    (_, without), (_, with_it) = map(gradients, models)
    assert all(torch.equal(with_it[name], value) for name, value in without.items()
               if name != "loss")  # fmt: skip
    more = sum(0.3 * 2.0 * float(with_it[name]) for name in set(with_it) - set(without))
    assert float(with_it["loss"]) == pytest.approx(float(without["loss"]) + more, rel=1e-5)


def test_it_grows_until_stage_1_ends():
    options = make_model(schedule=SCHEDULE, distillation_weight=0.5).options
    assert [options.distillation_at(SCHEDULE, t) for t in (0, 4, 8, 20)] == [0, 0.25, 0.5, 0.5]


def test_a_decoder_without_ctc_teaches():
    _, stats = gradients(at_stage_2(distillation_weight=1.0, ctc_weight=0.0, decoder=True))
    assert float(stats["loss_distillation_size3"]) > 0


@pytest.mark.parametrize("decoder", [False, True])
def test_a_trained_model_teaches_every_size_and_learns_nothing(decoder):
    conf = {"teacher_config": "config.yaml", "teacher_model_file": "x.pth"}
    pupil = at_stage_2(distillation_weight=2.0, decoder=decoder, **conf)
    teacher, other = at_stage_2(decoder=decoder), at_stage_2(decoder=decoder)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    pupil.learn_from(teacher)
    _, stats = gradients(pupil)
    assert set(stats) == pupil.names_of_stats(training=True)
    assert all(float(stats[f"loss_distillation{s}"]) > 0 for s in ("", "_size3", "_size5"))
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(name.startswith("_teacher") for name in pupil.state_dict())
    # From a copy of itself the full size has nothing to learn.
    other.load_state_dict(pupil.state_dict())
    pupil.zero_grad()
    pupil.learn_from(other)
    pupil.eval()
    batch = make_batch()
    front, targets, *_ = pupil._read(*batch.values(), (), None, {})
    said = said_by(other, batch["speech"], batch["speech_lengths"], targets)
    lesson = Distillation(1.0, said)
    _, stats = pupil._loss_of_pass(front, Pass(8, 1.0), targets, lesson)
    assert float(stats["loss_distillation"]) == pytest.approx(0.0, abs=1e-5)


def test_two_teachers_are_heard_as_the_mean_of_their_posteriors():
    one, other = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    both = Logits(one, None).mean_with(Logits(other, one))
    expected = (one.softmax(-1) + other.softmax(-1)) / 2
    torch.testing.assert_close(both.ctc.softmax(-1), expected)
    assert both.decoder is one and both.frames is None
    half = Logits(one.bfloat16()).mean_with(Logits(other.bfloat16()))
    assert half.ctc.dtype is torch.float32


def test_the_smaller_sizes_hear_the_trained_model_and_the_full_size():
    model, teacher = at_stage_2().eval(), at_stage_2().eval()
    batch = make_batch()
    front, targets, *_ = model._read(*batch.values(), (), None, {})
    said = said_by(teacher, batch["speech"], batch["speech_lengths"], targets)
    lesson = Distillation(1.0, said)
    _, of_full = model._loss_of_pass(front, Pass(8, 1.0), targets, lesson)
    _, of_small = model._loss_of_pass(
        front, Pass(3, 1.0, model.encoder.kept_units(3)), targets, lesson
    )
    full, small = (
        model.ctc.ctc_lo.of_size(z)(model.encoder.run_layers(front, kept=kept, blocks=blocks))
        for z, kept, blocks in (
            (8, None, None),
            (3, model.encoder.kept_units(3), model.encoder.blocks_for(3)),
        )
    )
    for stats, name, taught, pupil in (
        (of_full, "loss_distillation", Logits(said.ctc), full),
        (of_small, "loss_distillation_size3", Logits(said.ctc).mean_with(Logits(full)), small),
    ):
        expected = distillation_loss(taught, Logits(pupil), targets, 1.0)
        assert float(stats[name]) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_a_teacher_teaches_from_the_first_update():
    conf = {"teacher_config": "config.yaml", "teacher_model_file": "x.pth"}
    options = make_model(schedule=SCHEDULE, distillation_weight=0.5, **conf).options
    assert [options.distillation_at(SCHEDULE, t) for t in (0, 4, 20)] == [0.5, 0.5, 0.5]


def test_a_teacher_with_other_frames_is_refused():
    pupil = at_stage_2(distillation_weight=1.0, teacher_config="c", teacher_model_file="m")
    pupil.learn_from(make_model({"input_layer": "conv2d"}))
    with pytest.raises(OtherTrainingError, match="other numbers of frames"):
        gradients(pupil)
    with pytest.raises(OtherTrainingError, match="such as 9 and 10: both need"):
        check_frames(torch.tensor([7, 9, 5]), torch.tensor([7, 10, 5]))


def test_a_teacher_with_nothing_in_common_is_refused(monkeypatch):
    conf = {"teacher_config": "c.yaml", "teacher_model_file": "m.pth"}
    attention = {"decoder": True, "ctc_weight": 0.0}
    for ours, theirs, fits in (
        ({}, attention, False),
        ({"decoder": True}, attention, True),
        (attention, {}, False),
        ({}, {"transducer": True, "ctc_weight": 0.0}, False),
        ({}, {"transducer": True, "ctc_weight": 0.3}, True),
    ):
        teacher, pupil = (
            make_model(**theirs),
            make_model(**ours, distillation_weight=1, **conf),
        )
        monkeypatch.setattr(espnet_des.task, "load_model", lambda *_, t=teacher: (t, None))
        if fits:
            learn_from_file(pupil, *conf.values())
        else:
            with pytest.raises(
                ConfigError, match="teacher_config: c.yaml is of a model that has"
            ):
                learn_from_file(pupil, *conf.values())


def test_of_a_batch_without_a_frame_a_teacher_says_nothing():
    conf = {"teacher_config": "c.yaml", "teacher_model_file": "m.pth"}
    pupil = at_stage_2(distillation_weight=1.0, **conf)
    pupil.learn_from(at_stage_2())
    batch = make_batch(frames=6)
    batch = {k: v[:, :2] if k == "speech" else v for k, v in batch.items()}
    batch["speech_lengths"].fill_(2)
    loss, stats, _ = pupil(**batch)
    assert float(stats["loss_distillation"]) == 0.0 and loss.isfinite()
    loss.backward()


def test_a_loss_per_token_has_a_lesson_per_token():
    teacher = Logits(None, torch.randn(2, 4, 4))
    pupil = Logits(None, torch.randn(2, 4, 4))
    of_utterances, of_tokens = (
        float(distillation_loss(teacher, pupil, targets([5, 3], [3, 1]), 0.0, per_token))
        for per_token in (False, True)
    )
    assert of_tokens == pytest.approx(of_utterances * 2 / (4 + 2), rel=1e-5)
    model = at_stage_2(distillation_weight=1.0, decoder=True, length_normalized_loss=True)
    plain = at_stage_2(distillation_weight=1.0, decoder=True)
    plain.load_state_dict(model.state_dict())
    (_, of_tokens), (_, of_utterances) = map(gradients, (model, plain))
    name = "loss_distillation_size3"
    assert 0 < float(of_tokens[name]) < float(of_utterances[name])


def test_with_a_language_before_the_labels_the_end_of_the_sentence_is_learned_too():
    of_labels = targets([9], [3])
    counts = []
    for length in (4, 5):  # the labels and the end; before them the language
        for position in range(length):
            teacher, pupil = torch.zeros(1, length, 4), torch.zeros(1, length, 4)
            pupil[0, position, 0] = 1.0
            logits = Logits(None, teacher), Logits(None, pupil)
            counts.append(float(distillation_loss(*logits, of_labels, 0.0)) > 0)
    assert all(counts)


class Projection(AbsPostEncoder):
    """A postencoder of another dimension, which halves the frames."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 6)

    def forward(self, x, lengths):
        return self.linear(x[:, ::2]), (lengths + 1) // 2

    def output_size(self):
        return 6


def test_behind_a_postencoder_lessons_have_its_frames_and_there_are_no_exits():
    conf = {"exit_weight": None, "distillation_weight": None, "stochastic_depth_p2": 0.0}
    model = make_model(None, SCHEDULE, postencoder=Projection(), **conf)
    without_dropout(model).train()
    model.state.updates.fill_(20)
    model.state.freeze(torch.randperm(8))
    assert model.exits == []
    _, stats = gradients(model)
    assert float(stats["loss_distillation_size3"]) > 0
    seen = []

    class Seeing(Distillation):
        def losses_of_pass(self, model, ctc, outputs, targets, rows):
            seen.append((outputs.last.size(1), targets.frames.tolist()))
            return super().losses_of_pass(model, ctc, outputs, targets, rows)

    front, targets, *_ = model._read(*make_batch().values(), (), None, {})
    model._loss_of_pass(front, Pass(8, 1.0), targets, Seeing(1.0))
    frames = [(n + 1) // 2 for n in targets.frames.tolist()]
    assert seen == [(max(frames), frames)]
    with pytest.raises(ConfigError, match="exit_weight: 0.3 .* postencoder .Projection"):
        make_model(None, SCHEDULE, postencoder=Projection(), exit_weight=0.3)


@pytest.mark.parametrize(
    "conf, says",
    [
        ({"distillation_weight": 0.2, "ctc_weight": 0.0, "transducer": True}, "has neither"),
        ({"exit_weight": 0.2, "ctc_weight": 0.0, "transducer": True}, "leave one of them out"),
        ({"exit_weight": 0.2, "interctc_weight": 0.3}, "two ways"),
    ],
)
def test_what_has_nothing_to_learn_from_is_refused(conf, says):
    exits = {"interctc_layer_idx": [1]} if "interctc_weight" in conf else {}
    with pytest.raises(ConfigError, match=f"model_conf: .*{says}"):
        make_model(exits, SCHEDULE, **conf)


@pytest.mark.parametrize(
    "conf, weight",
    [
        ({}, 0.2),
        ({"decoder": True, "ctc_weight": 0.0}, 0.2),
        ({"transducer": True, "ctc_weight": 0.3}, 0.2),
        ({"transducer": True, "ctc_weight": 0.0}, 0.0),
        ({"distillation_weight": 0.0}, 0.0),
    ],
)
def test_the_full_size_teaches_by_default_where_it_has_posteriors(conf, weight):
    model = make_model(None, SCHEDULE, **({"distillation_weight": None} | conf))
    assert model.options.distillation_weight == weight


def test_the_full_size_teaches_nobody_as_published():
    assert SelectionOptions.of_preset(preset="published").distillation_weight == 0.0
