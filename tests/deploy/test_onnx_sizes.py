"""Several sizes that share their weights on the disk are the sizes alone."""

from types import SimpleNamespace

import numpy
import onnx
import pytest
import torch

from espnet_des.deploy.budget import export_within
from espnet_des.deploy.onnx.export import Exported
from espnet_des.deploy.onnx.graph import run, session
from espnet_des.deploy.onnx.sizes import SMALLEST, WEIGHTS, Shared, share, told
from espnet_des.errors import ConfigError
from tests.train import make_data, train_here


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """Wide enough for weights to be more than graphs, and for int8."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    return train_here(folder, folder, max_epoch=3, encoder_conf__output_size=64,
                      encoder_conf__linear_units=512, encoder_conf__own_weights=False)  # fmt: skip


def arguments(supernet, **changes):
    return {
        "asr_train_config": supernet / "config.yaml",
        "asr_model_file": supernet / "valid.cer_ctc.ave.pth",
    } | changes


@pytest.mark.parametrize(
    "quantize", [pytest.param("none", marks=pytest.mark.thorough), "int8"]
)
def test_each_is_its_own_export(supernet, tmp_path, capsys, quantize):
    given = arguments(supernet, quantize=quantize)
    done = export_within(output=tmp_path / "sizes", sizes=[8, 3], **given)
    assert [one.size for one in done] == [3, 8]
    assert "times the largest alone" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "sizes").iterdir()}
    assert names == {WEIGHTS, "size3.onnx", "size8.onnx"}
    # Fewer bytes than both, and each with the outputs that it has alone, bit by bit.
    total = sum(path.stat().st_size for path in (tmp_path / "sizes").iterdir())
    assert total < 0.8 * sum(one.alone.num_bytes for one in done)
    assert [path.name for path in tmp_path.iterdir()] == ["sizes"]
    if quantize == "none":
        alone = export_within(output=tmp_path / "alone.onnx", size=3, **given)
        assert alone.num_bytes == done[0].alone.num_bytes
        waves, lengths = torch.randn(2, 9001) / 10, torch.tensor([9001, 5000])
        one, other = (
            run(session(file), waves, lengths) for file in (alone.path, done[0].path)
        )
        assert all(map(numpy.array_equal, one, other))
    # It is moved as a folder.
    (tmp_path / "sizes").rename(tmp_path / "moved")
    session(tmp_path / "moved/size8.onnx")


@pytest.mark.parametrize("weights, pays", [(1_100_000, True), (1_700_000, False)])
def test_where_sizes_share_little_the_reason_is_told(tmp_path, weights, pays):
    alone = [Exported(tmp_path / "x", count, 0.0, 1.0, {}, "") for count in (8e5, 1e6)]
    done = [Shared(size, tmp_path / "s.onnx", 9000, 1.0, 1.0, one)
            for size, one in zip((3, 8), alone)]  # fmt: skip
    assert any("own_weights: false" in line for line in told(done, weights)) != pays


def test_outputs_that_would_differ_are_refused(tmp_path, monkeypatch):
    from espnet_des.deploy.onnx import sizes

    results = iter([(numpy.ones(3),), (numpy.zeros(3),)])
    monkeypatch.setattr(sizes, "run", lambda *_: next(results))
    monkeypatch.setattr(
        sizes,
        "session",
        lambda _: SimpleNamespace(get_inputs=lambda: [SimpleNamespace(shape=["b", "t"])]),
    )
    with pytest.raises(
        ConfigError, match="size 3: with shared weights its outputs would differ"
    ):
        sizes._measured(3, SimpleNamespace(path=tmp_path), tmp_path)


def test_equal_weights_stand_there_once(tmp_path):
    large = numpy.arange(SMALLEST, dtype=numpy.float32)
    files = {}
    for size, values in ((1, [large, large + 1]), (2, [large + 1, large, large[:3]])):
        tensors = [onnx.numpy_helper.from_array(v, f"w{i}") for i, v in enumerate(values)]
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["w1"], ["y"])], "g", [],
            [onnx.helper.make_tensor_value_info("y", 1, values[1].shape)], tensors,
        )  # fmt: skip
        files[size] = tmp_path / f"size{size}.onnx"
        onnx.save(onnx.helper.make_model(graph, ir_version=10), files[size])
    (tmp_path / "shared").mkdir()
    share(files, tmp_path / "shared")
    assert (tmp_path / "shared" / WEIGHTS).stat().st_size == 2 * large.nbytes
    (found,) = session(tmp_path / "shared/size2.onnx").run(None, {})
    numpy.testing.assert_array_equal(found, large)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": 3}, "size: is given beside sizes"),
        ({"macs": "1M"}, "macs: is given beside sizes"),
        (
            {"runtime": "sherpa-onnx"},
            "runtime: sherpa-onnx: several sizes are for onnxruntime",
        ),
        ({"sizes": [4]}, r"size: 4 must be one of \[3, 5, 8\]"),
    ],
)
def test_what_cannot_be_is_said(supernet, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        export_within(**arguments(supernet, output=tmp_path / "x", sizes=[3]) | changes)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        export_within(**arguments(supernet, output=tmp_path / "x", sizes=[3]))
