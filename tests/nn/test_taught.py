"""``model: taught``: what a trained model adds to ESPnet's loss, and what it leaves alone."""

import copy

import pytest
import torch

from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.errors import ConfigError, OtherTrainingError
from espnet_des.nn.distillation import as_teacher
from espnet_des.nn.encoders import SUBNETS
from espnet_des.nn.taught import TaughtModel
from espnet_des.nn.transducer import trainable_transducers
from tests.conftest import TINY, TOKENS, make_batch, transducer_parts, without_dropout
from tests.train import load, train_here

FILES = {"teacher_config": "config.yaml", "teacher_model_file": "x.pth"}


def make(cls, decoder=None, input_layer="linear", **conf):
    encoder = SUBNETS["des_conformer_subnet"](12, **(TINY | {"input_layer": input_layer}))
    parts = {"decoder": None, "joint_network": None}
    if decoder == "attention":
        parts["decoder"] = TransformerDecoder(
            len(TOKENS), 8, attention_heads=2, linear_units=8, num_blocks=1
        )
    if decoder == "transducer":
        parts = transducer_parts(8, len(TOKENS))
    weight = {"ctc_weight": 0.4 if decoder else 1.0}
    with trainable_transducers():
        model = cls(
            vocab_size=len(TOKENS), token_list=list(TOKENS), frontend=None, specaug=None,
            normalize=None, preencoder=None, encoder=encoder, postencoder=None,
            ctc=CTC(len(TOKENS), 8), **parts, **(weight | conf),
        )  # fmt: skip
    return without_dropout(model).train()


def taught(weight=2.0, **more):
    return make(TaughtModel, distillation_weight=weight, **FILES, **more)


def losses(model):
    torch.manual_seed(3)
    loss, stats, weight = model(**make_batch())
    loss.backward()
    return loss, stats, weight


@pytest.mark.parametrize("decoder", [None, "attention", "transducer"])
def test_the_loss_is_that_of_espnet_and_the_divergence_from_the_teacher(decoder):
    pupil, plain, teacher = (
        taught(decoder=decoder),
        make(ESPnetASRModel, decoder),
        make(ESPnetASRModel, decoder),
    )
    plain.load_state_dict(pupil.state_dict())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    pupil.learn_from(teacher)
    loss, stats, weight = losses(pupil)
    theirs, of_espnet, their_weight = losses(plain)
    more = float(stats["loss_distillation"])
    assert more > 0 and torch.equal(weight, their_weight)
    assert float(loss.detach()) == pytest.approx(float(theirs.detach()) + 2.0 * more, rel=1e-5)
    assert float(stats.pop("loss")) == pytest.approx(float(loss.detach()))
    del stats["loss_distillation"], of_espnet["loss"]
    assert stats == of_espnet
    # The teacher is as it was, and no part of the pupil.
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())
    assert set(pupil.state_dict()) == set(plain.state_dict())
    pupil.eval()
    with torch.no_grad():
        assert "loss_distillation" not in pupil(**make_batch())[1]


def test_what_is_learned_is_the_divergence_of_the_posteriors_of_real_frames():
    pupil, teacher = taught(), make(ESPnetASRModel)
    pupil.learn_from(teacher)
    torch.manual_seed(3)
    batch = make_batch()
    _, stats, _ = pupil(**batch)
    expected = 0.0
    # In training mode BatchNorm reads the batch: the whole of it at once.
    speech = batch["speech"], batch["speech_lengths"]
    theirs, mine = (m.ctc.ctc_lo(m.encode(*speech)[0]).softmax(-1) for m in (teacher, pupil))
    for row, length in enumerate(batch["speech_lengths"].tolist()):
        p, q = theirs[row, :length], mine[row, :length]
        expected += float((p * (p / q).log()).sum().detach()) / 3
    assert float(stats["loss_distillation"]) == pytest.approx(expected, rel=1e-4)


def test_nothing_is_learned_from_a_copy():
    pupil = taught(decoder="attention").eval()
    teacher = copy.deepcopy(pupil)
    pupil.learn_from(teacher)
    pupil.training = True  # the loss of training, while BatchNorm evaluates
    _, stats, _ = losses(pupil)
    assert float(stats["loss_distillation"]) == pytest.approx(0.0, abs=1e-5)


def test_the_labels_of_a_batch_stay_as_they_are_with_a_language_token():
    more = {"decoder": "attention", "lang_token_id": 2}
    pupil = taught(**more)
    pupil.learn_from(make(ESPnetASRModel, **more))
    batch = make_batch()
    before = {name: value.clone() for name, value in batch.items()}
    _, stats, _ = pupil(**batch)
    assert float(stats["loss_distillation"]) > 0
    assert all(torch.equal(value, batch[name]) for name, value in before.items())


def test_a_teacher_counts_no_errors():
    teacher = make(ESPnetASRModel, "transducer", report_cer=True, report_wer=True)
    assert teacher.error_calculator_trans is not None
    as_teacher(teacher)
    assert teacher.error_calculator is None and teacher.error_calculator_trans is None
    without = make(ESPnetASRModel)
    assert as_teacher(without).error_calculator is None


def test_recognition_leaves_nothing_behind_in_the_model():
    pupil = taught().eval()
    with torch.no_grad():
        pupil.encode(make_batch()["speech"], make_batch()["speech_lengths"])
        pupil(**make_batch())
    assert pupil._encoded is None


def test_a_teacher_is_needed_and_must_give_as_many_frames():
    with pytest.raises(RuntimeError, match="no teacher yet: train it with"):
        losses(taught())
    pupil = taught()
    pupil.learn_from(make(ESPnetASRModel, input_layer="conv2d"))
    with pytest.raises(OtherTrainingError, match="other numbers of frames"):
        losses(pupil)


@pytest.mark.parametrize(
    "conf, words",
    [
        ({"teacher_config": None}, "teacher_config: None must be a file"),
        ({"teacher_model_file": 3}, "teacher_model_file: 3 must be a file"),
        ({"distillation_weight": 0.0}, "distillation_weight: 0.0 must be a number above 0"),
        ({"distillation_weight": "x"}, "distillation_weight: 'x' must be a number above 0"),
        ({"distillation_weight": float("nan")}, "distillation_weight: nan must be"),
    ],
)
def test_settings_that_cannot_work_are_refused(conf, words):
    with pytest.raises(ConfigError, match=f"model_conf: {words}"):
        make(TaughtModel, **(FILES | conf))


def test_a_training_of_espnet_hears_its_teacher(data, tmp_path):
    """A supernet's training, then one of ESPnet's own encoder, which it teaches."""
    teacher = train_here(data, tmp_path / "teacher", max_epoch=3)
    conf = {
        "encoder": "conformer",
        "encoder_conf__sizes": None,
        "model": "taught",
        "model_conf": {
            "ctc_weight": 1.0,
            "teacher_config": str(teacher / "config.yaml"),
            "teacher_model_file": str(teacher / "3epoch.pth"),
        },
    }
    for epochs in (1, 2):  # and a resume
        out = train_here(data, tmp_path / "pupil", max_epoch=epochs, **conf)
    found = load(out / "checkpoint.pth")
    told = found["reporter"]["stats"]
    assert all(told[epoch]["train"]["loss_distillation"] > 0 for epoch in (1, 2))
    assert "loss_distillation" not in told[2]["valid"]
    assert not any("teacher" in key for key in found["model"])
    # In another precision, too; and what is wrong with a teacher is said of its own keys.
    train_here(data, tmp_path / "double", max_epoch=1, train_dtype="float64", **conf)
    lacking = conf["model_conf"] | {"teacher_model_file": "nowhere.pth"}
    with pytest.raises(ConfigError, match="teacher_model_file: nowhere.pth: .* is no file"):
        train_here(data, tmp_path / "none", max_epoch=1, **(conf | {"model_conf": lacking}))
    with pytest.raises(ConfigError, match="ngpu: 2 .*cannot share the teacher"):
        train_here(data, tmp_path / "two", ngpu=2, **conf)
    other = ["<blank>", "<unk>", "A", "B", "C", "D", "<space>", "<sos/eos>"]
    with pytest.raises(ConfigError, match="teacher_config: .* has another token list"):
        train_here(data, tmp_path / "other", max_epoch=1, token_list=other, **conf)
