"""The benchmark of inference: whose layers it times, its arithmetic, and that it runs through."""

import json
from pathlib import Path

import pytest
import torch

from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet_des.errors import ConfigError
from espnet_des.measure.benchmark.inference import (
    CHOSEN,
    FEATURES,
    Bench,
    benchmark_inference,
    chosen_sets,
    conformer,
    faster,
)

RECIPE = Path(__file__).parents[2] / "egs2/compare_words/asr1"
RESULTS = RECIPE / "results/compare.json"


def test_the_layers_are_those_that_trainings_chose():
    runs = json.loads(RESULTS.read_text())["runs"]
    kept = {r["seed"]: r["sizes"]["8"]["kept"] for r in runs if r["system"] == "simple_top_k"}
    assert [list(layers) for layers in CHOSEN] == [kept[seed] for seed in sorted(kept)][:3]


def test_a_chosen_layer_stands_for_those_of_as_many_blocks():
    assert [tuple(kept) for kept in chosen_sets(6)] == list(CHOSEN)
    for kept, chosen in zip(chosen_sets(12), CHOSEN):
        assert len(set(kept)) == 16 and max(kept) < 48
        kinds = [sorted(layer % 4 for layer in layers) for layers in (kept, chosen)]
        assert kinds[0] == sorted(2 * kinds[1])
    assert chosen_sets(12)[0][:4] == [9, 10, 13, 14]  # 5 and 6 of block 1: of blocks 2 and 3


def test_ratios_are_of_rounds():
    found = faster([1.0, 2.0, 4.0], [2.0, 8.0, 12.0])
    assert found.median == pytest.approx(3.0)
    assert 2.0 < found.low < found.median < found.high < 4.0


@torch.no_grad()
def test_what_is_called_stock_is_espnets_encoder(tmp_path):
    bench = Bench(6, 32, 0.5, tmp_path)
    stock = ConformerEncoder(FEATURES, **conformer(2, 32)).eval()
    subnet = bench.subnet(range(8), num_blocks=2, conv_norm="batch_norm")
    subnet.load_state_dict(stock.state_dict())
    out, expected = (e(bench.x, bench.lengths)[0] for e in (subnet, stock))
    torch.testing.assert_close(out, expected)


def test_the_benchmark_runs(tmp_path, capsys, monkeypatch):
    # Two sets, of whose times the mean is taken: an export takes seconds.
    monkeypatch.setattr("espnet_des.measure.benchmark.inference.CHOSEN", CHOSEN[:2])
    rows, checks = benchmark_inference(
        tmp_path, num_blocks=6, dim=32, seconds=0.5, rounds=2, neighbours=1,
        front_ends=["dw_striding by 8"],
    )  # fmt: skip
    text = (tmp_path / "benchmark_inference.md").read_text()
    assert text in capsys.readouterr().out and "beside 1 other programs" in text
    assert [row.title for row in rows] == [
        "stock, 6 blocks, PyTorch, conv2d", "stock, 6 blocks, ONNX float32, conv2d",
        "stock, 6 blocks, ONNX int8, conv2d", "stock, 2 blocks, PyTorch, conv2d",
        "stock, 2 blocks, ONNX float32, conv2d", "stock, 2 blocks, ONNX int8, conv2d",
        "size 8, PyTorch, conv2d", "size 8, ONNX float32, dw_striding by 8",
        "size 8, ONNX int8, dw_striding by 8",
    ]  # fmt: skip
    assert rows[0].pytorch.median == rows[2].onnx.median == 1.0
    assert all(row.seconds > 0 and row.busy is not None for row in rows)
    assert [check.to for check in checks[2:]] == ["the sum of its layers"] * 3
    saved = json.loads((tmp_path / "benchmark_inference.json").read_text())
    assert saved["rows"][-1]["onnx"]["median"] == rows[-1].onnx.median
    assert not list(tmp_path.glob("*models*"))


def test_blocks_that_the_layers_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="num_blocks: 9 must be a multiple of 6"):
        benchmark_inference(tmp_path / "out", num_blocks=9)
    assert not (tmp_path / "out").exists()
