"""Scores in TensorBoard, and the pictures made of them."""

import json
import logging
import subprocess
import sys

import matplotlib
import numpy
import pytest
import torch
from PIL import Image

from espnet_des.errors import ConfigError
from espnet_des.measure.pictures import plot_all
from espnet_des.method.layers import Layer, layer_names
from espnet_des.method.selection import Schedule
from espnet_des.method.tracker import History
from espnet_des.training.score_log import is_told, read_history
from tests.plot.test_figures import rows_of
from tests.train import ROOT, assert_same, kill_when, load, start, train_here

SELECTION = "encoder.selection."
TOP_K = {"use_tensorboard": True, "model_conf__updates_per_iteration": 2}
ZERO_OUTS = {
    "use_tensorboard": True, "max_epoch": 6,
    "model_conf__method": "iterative_zero_out", "model_conf__reduction": None,
    "model_conf__zeroed": [2, 4, 5], "model_conf__updates_per_iteration": [4, 4, 4],
}  # fmt: skip


@pytest.fixture(scope="module")
def top_k(data, tmp_path_factory):
    """Stage 1 ends with update 10; an epoch has 3 updates."""
    return train_here(data, tmp_path_factory.mktemp("top_k"), max_epoch=5, **TOP_K)


@pytest.fixture(scope="module")
def zero_outs(data, tmp_path_factory):
    """Zero-outs in updates 4, 8 and 12; stage 2 from update 13."""
    return train_here(data, tmp_path_factory.mktemp("zero_outs"), **ZERO_OUTS)


def history_of(exp) -> History:
    return read_history(exp / "tensorboard" / "train")


# ---- TensorBoard -------------------------------------------------------------


def test_scores_are_told_from_the_first_update_to_the_end_of_stage_1(top_k):
    history, state = history_of(top_k), load(top_k / "checkpoint.pth")["model"]
    assert history.updates.tolist() == list(range(12))  # 0 to E + 1
    assert (history.scores[0] == 0.5).all() and history.scores.shape == (12, 8)
    assert (history.scores[-1] == state["encoder.scores"].double().numpy()).all()


def test_a_zero_out_is_told_before_and_after(zero_outs):
    history, state = history_of(zero_outs), load(zero_outs / "checkpoint.pth")["model"]
    assert history.updates.tolist() == list(range(14))
    zeroed = (history.scores == -5.0).sum(1)
    assert [zeroed[5], zeroed[9], zeroed[13]] == [2, 4, 5]
    assert zeroed[4] == zeroed[8] == zeroed[12] == 0
    assert (history.scores[-1] == state["encoder.scores"].double().numpy()).all()


@pytest.mark.parametrize("step_last", [7, 480, 732_000 * 6 // 10])
def test_what_is_told_is_bounded_however_long_the_training(step_last):
    schedule = Schedule((step_last,), (32,))
    told = [step for step in range(step_last + 100) if is_told(schedule, step)]
    assert told[0] == 0 and told[-2:] == [step_last, step_last + 1]
    assert min(step_last, 1000) * 0.6 < len(told) <= 1003
    assert sum(is_told(schedule, step, points=100) for step in told) <= 103


@pytest.mark.thorough
def test_a_killed_and_resumed_training_has_every_step_once(data, zero_outs, tmp_path):
    process = start(data, tmp_path, **ZERO_OUTS)
    kill_when(process, tmp_path / "log0.txt", "3epoch:train:4-4batch")
    exp = train_here(data, tmp_path, **ZERO_OUTS)
    assert len(list((exp / "tensorboard/train").iterdir())) == 2
    whole, resumed = history_of(zero_outs), history_of(exp)
    assert resumed.updates.tolist() == whole.updates.tolist()
    assert (resumed.scores == whole.scores).all()


def test_a_restart_in_the_same_folder_hides_the_training_before(data, tmp_path):
    train_here(data, tmp_path, max_epoch=5, **TOP_K)
    for name in ("checkpoint.pth", "checkpoint.previous.pth"):
        (tmp_path / "exp" / name).unlink()
    exp = train_here(data, tmp_path, max_epoch=5, seed=2, optim_conf__lr=0.02, **TOP_K)
    history, state = history_of(exp), load(exp / "checkpoint.pth")["model"]
    assert history.updates.tolist() == list(range(12))
    assert (history.scores[-1] == state["encoder.scores"].double().numpy()).all()


def test_tensorboard_changes_nothing_in_the_training(data, zero_outs, tmp_path):
    exp = train_here(data, tmp_path, **(ZERO_OUTS | {"use_tensorboard": False}))
    assert_same(load(zero_outs / "6epoch.pth"), load(exp / "6epoch.pth"))
    one, two = (load(p / "checkpoint.pth")["optimizers"][0] for p in (zero_outs, exp))
    assert one["state"].keys() == two["state"].keys()
    assert all(torch.equal(one["state"][k][v], two["state"][k][v])
               for k in one["state"] for v in one["state"][k])  # fmt: skip


def test_tensorboard_shows_a_curve_per_layer_and_a_picture_per_epoch_of_stage_1(zero_outs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(zero_outs / "tensorboard/train"), {"images": 0}).Reload()
    names = layer_names(
        [Layer(b, kind) for b in (0, 1) for kind in ("ff_macaron", "mhsa", "conv", "ff")]
    )
    assert names[5] == "5_block1_mhsa"
    curve = events.Scalars("scores/5_block1_mhsa")
    history = history_of(zero_outs)
    assert [event.step for event in curve] == history.updates.tolist()
    values = [event.value for event in curve]
    numpy.testing.assert_allclose(values, history.scores[:, 5], rtol=1e-6)
    assert {f"scores/{name}" for name in names} <= set(events.Tags()["scalars"])
    # Stage 1 ends in epoch 5, of updates 12 to 14.
    assert [event.step for event in events.Images("kept_layers")] == [3, 6, 9, 12, 15]


def test_torn_event_files_are_read_as_far_as_they_go(top_k, tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    (whole,) = (top_k / "tensorboard/train").iterdir()
    (folder / whole.name).write_bytes(whole.read_bytes()[:-1])
    (folder / "events.out.tfevents.9.empty").write_bytes(b"")
    assert read_history(folder).updates.tolist() == list(range(12))
    (folder / whole.name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    updates = read_history(folder).updates.tolist()
    assert updates == list(range(len(updates))) and 0 < len(updates) < 12


# ---- pictures -------------------------------------------------------------


def draw_all(exp, out, **more):
    return plot_all(exp / "config.yaml", exp / "valid.cer_ctc.ave.pth", out, **more)


def test_all_pictures_of_a_training_are_written_and_repeat_exactly(zero_outs, tmp_path):
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps(rows_of()))
    command = [
        sys.executable, "-m", "espnet_des.bin.plot", "--sizes_json", str(sizes),
        "--asr_train_config", str(zero_outs / "config.yaml"),
        "--asr_model_file", str(zero_outs / "valid.cer_ctc.ave.pth"),
        "--output_dir", str(tmp_path / "images"),
    ]  # fmt: skip
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    names = ["kept_layers.png", "scores.png", "wer.png"]
    assert run.stdout.splitlines() == [str(tmp_path / "images" / name) for name in names]
    # A user's own look and the state of this process have no part in them.
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert len(draw_all(zero_outs, tmp_path / "again", sizes_json=sizes)) == 3
    for name in names:
        one, two = tmp_path / "images" / name, tmp_path / "again" / name
        assert one.read_bytes() == two.read_bytes()
        with Image.open(one) as image:
            assert 700 < image.width < 1600 and 300 < image.height < 1000
            assert "Software" not in image.info
            assert len(image.convert("RGB").getcolors(10**6)) > 20
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == names


def test_sizes_json_beside_the_config_is_found(top_k, tmp_path, caplog):
    beside = top_k / "sizes.json"
    beside.write_text(json.dumps(rows_of(costs=False)))
    try:
        written = draw_all(top_k, tmp_path)
    finally:
        beside.unlink()
    assert tmp_path / "wer.png" in written
    for key in ("macs_per_second", "rtf_1_thread", "model_file_bytes"):
        assert f"does not give {key} for every size" in caplog.text


def test_what_has_no_data_is_left_out_with_a_notice(data, tmp_path, caplog):
    exp = train_here(data, tmp_path, max_epoch=5, **(TOP_K | {"use_tensorboard": False}))
    caplog.set_level(logging.WARNING)
    assert draw_all(exp, tmp_path / "images") == [tmp_path / "images/kept_layers.png"]
    assert "scores.png is left out: " in caplog.text
    assert "trained with use_tensorboard: false" in caplog.text
    assert "wer.png is left out: no sizes_json was given" in caplog.text


def test_a_training_that_is_in_stage_1_can_be_looked_at(data, top_k, tmp_path, caplog):
    written = plot_all(top_k / "config.yaml", top_k / "latest.pth", tmp_path / "late")
    process = start(data, tmp_path, max_epoch=5, **TOP_K)
    kill_when(process, tmp_path / "log0.txt", "2epoch:train:4-4batch")
    exp = tmp_path / "exp"
    early = plot_all(exp / "config.yaml", exp / "latest.pth", tmp_path / "early")
    for files in (early, written):
        assert [p.name for p in files] == ["kept_layers.png", "scores.png"]
    assert early[0].read_bytes() != written[0].read_bytes()


def test_data_of_another_training_are_refused(zero_outs, top_k, tmp_path, caplog):
    sizes = tmp_path / "sizes.json"
    rows = rows_of()
    sizes.write_text(json.dumps([row | {"size": row["size"] + 1} for row in rows]))
    with pytest.raises(ConfigError, match=r"sizes \[4, 6, 9\], the model \[3, 5, 8\]"):
        draw_all(top_k, tmp_path, sizes_json=sizes)
    state = load(top_k / "checkpoint.pth")["model"]
    others = sorted(state[SELECTION + "ranking"][3:6].int().tolist())
    sizes.write_text(json.dumps([rows[0] | {"kept_layers": others}]))
    with pytest.raises(ConfigError, match="it is of another training"):
        draw_all(top_k, tmp_path, sizes_json=sizes)
    exp = tmp_path / "mixed"
    exp.mkdir()
    for name in ("config.yaml", "valid.cer_ctc.ave.pth"):
        (exp / name).symlink_to((top_k / name).resolve())
    (exp / "tensorboard").symlink_to(zero_outs / "tensorboard")
    assert [p.name for p in draw_all(exp, tmp_path / "images")] == ["kept_layers.png"]
    assert "of another training in the same folder" in caplog.text


def test_an_encoder_of_one_size_has_nothing_to_draw(data, tmp_path):
    changes = {"encoder": "conformer", "encoder_conf__sizes": None, "model": None,
               "model_conf": {"ctc_weight": 1.0}, "max_epoch": 1}  # fmt: skip
    exp = train_here(data, tmp_path, **changes)
    with pytest.raises(ConfigError, match="encoder: conformer has one size only"):
        plot_all(exp / "config.yaml", exp / "1epoch.pth", tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_pyplot_is_not_needed(tmp_path):
    """It would choose a backend, and keep every figure."""
    code = (
        "import sys; from pathlib import Path\n"
        "from espnet_des.method.layers import Layer\n"
        "from espnet_des.plot.kept import draw_kept_layers\n"
        "from espnet_des.plot.style import save\n"
        "save(draw_kept_layers([Layer(0, 'mhsa'), Layer(0, 'ff')], [1, 0], [1, 2]),"
        f" Path({str(tmp_path / 'a.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert (tmp_path / "a.png").exists()
