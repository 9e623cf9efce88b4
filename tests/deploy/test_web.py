"""The folder that the web page reads."""

import json
import shutil

import pytest
import soundfile

from espnet_des.corpus.kaldi import DataError
from espnet_des.deploy.onnx.graph import session
from espnet_des.deploy.web import OF_TOKENS, prepare_web
from espnet_des.errors import ConfigError
from tests.train import make_data, train_here


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """Wide enough for int8."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    return train_here(folder, folder, max_epoch=3, encoder_conf__output_size=32,
                      encoder_conf__linear_units=32)  # fmt: skip


def arguments(supernet, **changes):
    return {
        "asr_train_config": supernet / "config.yaml",
        "asr_model_file": supernet / "valid.cer_ctc.ave.pth",
        "test_sets": [supernet.parent],
        "sizes": [8, 3],
        "quantize": ["int8"],
        "num_samples": 2,
    } | changes


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_it_holds_what_the_page_needs(supernet, tmp_path, capsys):
    from espnet_des.inference.loading import load_model
    from espnet_des.nn.costs import macs_of_sizes, parameters_of_sizes

    folder = tmp_path / "web/models"
    prepare_web(**arguments(supernet, output=folder))
    model, _ = load_model(supernet / "config.yaml", supernet / "valid.cer_ctc.ave.pth")
    macs, params = macs_of_sizes(model, 8000), parameters_of_sizes(model)
    sizes = read(folder, "sizes.json")["sizes"]
    assert [one["size"] for one in sizes] == [3, 8]
    for one in sizes:
        assert one["params"] == params[one["size"]]
        assert one["macs_per_second"] == macs[one["size"]]
        assert len(one["kept_layers"]) == one["size"]
        (kind,) = one["weights"]
        files = one["weights"][kind]
        assert (kind, files["weights"]) == ("int8", "int8/weights.bin")
        assert files["bytes"] > (folder / files["graph"]).stat().st_size
        stored = session(folder / files["graph"]).get_modelmeta().custom_metadata_map
        about = {key: json.loads(stored[key]) for key in OF_TOKENS}
        assert about == read(folder, "tokens.json")
    texts = dict(
        line.split(" ", 1) for line in (supernet.parent / "text").read_text().splitlines()
    )
    samples = read(folder, "samples.json")
    assert len(samples) == 2
    for sample in samples:
        assert sample["reference"] == texts[sample["name"].split(": ")[1]]
        assert soundfile.info(folder / sample["file"]).samplerate == 8000
    # Nothing is left behind, and it is not made twice.
    assert [path.name for path in folder.parent.iterdir()] == ["models"]
    before = (folder / "sizes.json").stat().st_mtime_ns
    capsys.readouterr()
    prepare_web(**arguments(supernet, output=folder))
    assert "made of this model already" in capsys.readouterr().out
    assert (folder / "sizes.json").stat().st_mtime_ns == before
    # Of something else it is made anew.
    prepare_web(**arguments(supernet, output=folder, sizes=[3], quantize=["none"]))
    (one,) = read(folder, "sizes.json")["sizes"]
    assert list(one["weights"]) == ["float32"] and not (folder / "int8").exists()


def test_what_cannot_be_is_said(supernet, tmp_path):
    with pytest.raises(ConfigError, match="num_samples: 0 must be at least 1"):
        prepare_web(**arguments(supernet, output=tmp_path / "x", num_samples=0))
    with pytest.raises(ConfigError, match=r"gone/wav.scp is missing"):
        prepare_web(
            **arguments(supernet, output=tmp_path / "x", test_sets=[tmp_path / "gone"])
        )
    two = [tmp_path / "a/dev", tmp_path / "b/dev"]
    with pytest.raises(ConfigError, match="must be folders of different names"):
        prepare_web(**arguments(supernet, output=tmp_path / "x", test_sets=two))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(DataError, match="holds something else"):
        prepare_web(**arguments(supernet, output=tmp_path / "mine"))
    shutil.rmtree(tmp_path / "mine")
    assert not list(tmp_path.iterdir())
