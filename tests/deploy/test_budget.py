"""A budget in place of a size: extraction and export, tables, measured sizes, refusals."""

import json
import subprocess
import sys

import pytest
import torch

from espnet_des.bin import export_onnx as export_command
from espnet_des.bin import extract_subnet as extract_command
from espnet_des.deploy.budget import chosen_size
from espnet_des.deploy.extract import extract_subnet, file_size
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model
from espnet_des.nn.cost_table import about_model
from espnet_des.nn.costs import macs_of_sizes, parameters_of_sizes
from espnet_des.nn.macs import count_macs
from tests.train import load, make_data, train_here

SIZES = [3, 4, 5, 6, 7, 8]


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """A trained supernet of any size from 3 to 8: its config and its model file."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    exp = train_here(folder, folder, max_epoch=3, encoder_conf__sizes="any",
                     encoder_conf__smallest_size=3)  # fmt: skip
    return exp / "config.yaml", exp / "valid.cer_ctc.ave.pth"


@pytest.fixture(scope="module")
def model(supernet):
    return load_model(*supernet)[0]


@pytest.fixture(scope="module")
def table(model, tmp_path_factory):
    """A table with made-up times: 10 ms, and 1, 2, 3 and 4 of a layer."""
    kinds = [layer.kind for layer in model.encoder.layers[:4]]
    path = tmp_path_factory.mktemp("table") / "table.json"
    times = {"rest": 10.0, "layers": {kind: i + 1.0 for i, kind in enumerate(kinds)}}
    content = {
        "about": {"seconds": 2.0, "runtime": "onnx"},
        "model": about_model(model),
        "milliseconds": times,
    }
    path.write_text(json.dumps(content))
    return path


def slices(folder, model, **changes):
    """A file of three measured sizes; returns its path."""
    params = parameters_of_sizes(model)
    entries = [
        {"size": size, "params": params[size], "macs_per_second": 1e3 * size, "rtf": size / 1e3,
         "file_bytes": 100 * size, "wer": {"a": wer, "b": wer + 1}, "pareto": True}
        for size, wer in ((3, 9.0), (5, 6.0), (8, 7.0))
    ]  # fmt: skip
    entries[1] |= changes
    path = folder / "slices.json"
    path.write_text(json.dumps({"about": {"seconds": 10.0}, "slices": entries}))
    return path


# ---- what sizes cost --------------------------------------------------------


def test_costs_are_those_of_the_extracted_files(supernet, model, tmp_path):
    macs, params = macs_of_sizes(model, 8000), parameters_of_sizes(model)
    for size in SIZES:
        file = extract_subnet(*supernet, size, tmp_path / f"{size}", f"{'x' * size}.pth")
        assert file_size(model, size) == file.stat().st_size
        part, _ = load_model(file.with_name("config.yaml"), file)
        assert macs[size] == round(count_macs(part, torch.randn(1, 80000)).total / 10)
        assert params[size] == sum(p.numel() for p in part.parameters())


# ---- the commands -----------------------------------------------------------


def run(command, monkeypatch, supernet, *options):
    """The exit code of a command, in this process."""
    files = ("--asr_train_config", supernet[0], "--asr_model_file", supernet[1])
    monkeypatch.setattr(sys, "argv", [str(word) for word in ("command", *files, *options)])
    return command.main()


def test_extraction_by_each_budget(supernet, model, table, tmp_path, monkeypatch, capsys):
    kinds = [
        [model.encoder.layers[q].kind for q in model.encoder.kept_layers(z)] for z in SIZES
    ]
    numbers = dict(zip(table_kinds(table), (1.0, 2.0, 3.0, 4.0)))
    ms = {z: 10 + sum(numbers[k] for k in own) for z, own in zip(SIZES, kinds)}
    budgets = {
        "macs": macs_of_sizes(model, 8000)[5] + 1,
        "params": parameters_of_sizes(model)[6],
        "file_size": f"{file_size(model, 4) / 1000:.3f}kB",
        "ms": ms[7],
        "rtf": ms[3] / 2000 + 1e-6,
    }
    for (key, limit), size in zip(budgets.items(), (5, 6, 4, 7, 3)):
        out, more = tmp_path / key, ["--cost_table", table] if key in ("ms", "rtf") else []
        given = [f"--{key}", limit, "--output_dir", out, *more]
        assert run(extract_command, monkeypatch, supernet, *given) == 0
        assert f"Size {size} is chosen: " in (told := capsys.readouterr().out)
        assert f"the next larger one, size {size + 1}, has " in told
        kept = load_model(out / "config.yaml", out / supernet[1].name)[1].encoder_conf
        assert kept["kept_layers"] == model.encoder.kept_layers(size)


def table_kinds(table):
    return json.loads(table.read_text())["milliseconds"]["layers"]


def test_export_by_a_budget(supernet, model, tmp_path, monkeypatch, capsys):
    limit = parameters_of_sizes(model)[4]
    options = ("--params", limit, "--output", tmp_path / "x.onnx")
    assert run(export_command, monkeypatch, supernet, *options) == 0
    assert "Size 4 is chosen" in capsys.readouterr().out
    onnx = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "x.onnx")
    assert onnx.get_modelmeta().custom_metadata_map["num_layers"] == "4"


def test_a_size_is_still_a_size(supernet, tmp_path, monkeypatch, capsys):
    options = ("--size", 3, "--output_dir", tmp_path / "x")
    assert run(extract_command, monkeypatch, supernet, *options) == 0
    assert "is chosen" not in capsys.readouterr().out
    for more, says in (
        (("--macs", "1G"), "size: 3 macs: 1G is given: give exactly one of"),
        (("--cost_table", "x.json"), "size: 3 cost_table: x.json is given"),
    ):
        assert run(extract_command, monkeypatch, supernet, *options, *more) == 1
        assert says in capsys.readouterr().err
    assert run(extract_command, monkeypatch, supernet, *options[2:]) == 1
    assert "nothing is given: give exactly one of ['size', 'macs'" in capsys.readouterr().err


# ---- measured sizes ---------------------------------------------------------


@pytest.mark.parametrize("budget, size", [
    ({"macs": "4k"}, 3), ({"macs": "5k"}, 5), ({"macs": "1M"}, 5), ({"params": "one less"}, 3),
    ({"file_size": "0.5kB"}, 5), ({"rtf": 0.0031}, 3), ({"ms": "50"}, 5),
])  # fmt: skip
def test_of_measured_sizes_the_best_one_is_taken(
    supernet, model, tmp_path, budget, size, capsys
):
    if "params" in budget:
        budget = {"params": parameters_of_sizes(model)[5] - 1}
    assert chosen_size(*supernet, **budget, slices=slices(tmp_path, model)) == size
    told = capsys.readouterr().out
    not_the_largest = "size 8, whose mean WER is higher: 7.50%, and 6.50% at size 5"
    assert (not_the_largest in told) == (budget == {"macs": "1M"})


def test_times_of_pytorch_choose_no_size_for_onnx(supernet, model, tmp_path):
    path = slices(tmp_path, model)
    with pytest.raises(
        ConfigError, match="slices: .* has times of PyTorch, .* --runtime onnx-int8"
    ):
        chosen_size(*supernet, rtf=0.0031, slices=path, runtime="onnx-int8")
    assert chosen_size(*supernet, macs="4k", slices=path, runtime="onnx-int8") == 3


def test_without_word_error_rates_the_largest_is_taken(supernet, model, tmp_path):
    path = slices(tmp_path, model)
    content = json.loads(path.read_text())
    for entry in content["slices"]:
        del entry["wer"]
    path.write_text(json.dumps(content))
    assert chosen_size(*supernet, macs="1M", slices=path) == 8


@pytest.mark.parametrize("changes, says", [
    ({"size": 9}, r"slices\[1\]: size: 9 must be one of \[3, 4"),
    ({"size": 3}, r"slices\[1\]: size: 3 must be .* each once"),
    ({"size": True}, r"slices\[1\]: size: True"),
    ({"macs_per_second": "4"}, r"slices\[1\]: macs_per_second: '4' must be a number above 0"),
    ({"macs_per_second": float("nan")}, r"slices\[1\]: macs_per_second: nan"),
    ({"macs_per_second": None}, r"slices\[1\]: macs_per_second: None"),
    ({"wer": {"a": "5"}}, r"slices\[1\]: wer: .* must be percent by test set"),
    ({"wer": [5.0]}, r"slices\[1\]: wer: "),
    ({"wer": {"a": 5.0}}, r"slices\[1\]: wer: .* same test sets"),
    ({"params": 7}, r"slices\[1\]: params: 7: size 5 of this model has [0-9]+; .* another"),
])  # fmt: skip
def test_wrong_entries_are_named(supernet, model, tmp_path, changes, says):
    with pytest.raises(ConfigError, match=f"slices: .*slices.json: {says}"):
        chosen_size(*supernet, macs="1M", slices=slices(tmp_path, model, **changes))


@pytest.mark.parametrize("content", ["[", "[]", "{}", '{"slices": []}', '{"slices": 3}'])
def test_files_that_are_none_are_named(supernet, tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    for given in ({"macs": 1, "slices": path}, {"ms": 1, "cost_table": path}):
        with pytest.raises(ConfigError, match="other.json"):
            chosen_size(*supernet, **given)
    path.write_text('{"slices": [3]}')
    with pytest.raises(ConfigError, match=r"slices\[0\]: 3 must be an object"):
        chosen_size(*supernet, macs=1, slices=path)
    with pytest.raises(ConfigError, match="about: seconds: None; give rtf"):
        chosen_size(*supernet, ms=1, slices=path)


def test_times_of_another_runtime_are_refused(supernet, table, tmp_path, monkeypatch, capsys):
    options = ("--ms", 50, "--cost_table", table, "--output", tmp_path / "x.onnx")
    assert run(export_command, monkeypatch, supernet, *options, "--quantize", "int8") == 1
    says = "has the times of runtime onnx, and the model is for onnx-int8"
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_extraction_needs_no_onnx(supernet, tmp_path):
    """Which is an extra; the command that needs it names that."""
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('onnx', 'onnxruntime', 'onnxscript')));"
        "from espnet_des.bin.{} import main; sys.exit(main())"
    )
    files = ("--asr_train_config", supernet[0], "--asr_model_file", supernet[1], "--size", "3")
    for command, *options in (
        ("extract_subnet", "--output_dir", tmp_path / "x"),
        ("export_onnx", "--output", tmp_path / "x.onnx"),
    ):
        words = [sys.executable, "-c", script.format(command), *files, *options]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        is_extraction = command == "extract_subnet"
        assert done.returncode == (not is_extraction), done.stderr
        assert ("pip install 'espnet_des[onnx]'" in done.stderr) != is_extraction
        assert "Traceback" not in done.stderr


# ---- refusals ---------------------------------------------------------------


@pytest.mark.parametrize("asked, says", [
    ({"macs": 1}, r"macs: 1 is less than any size needs: size 3 needs the least, [0-9,]+ MACs"),
    ({"file_size": "1kB"}, "file_size: 1,000 is less .* bytes of the model file"),
    ({"macs": "1G", "params": "1G"}, "macs: '1G' params: '1G' is given: give exactly one"),
    ({"macs": "1g"}, "macs: '1g' must be a number above 0, such as 150M"),
    ({"file_size": "4M"}, "file_size: '4M' must be .* such as 4MB, and may end in .*'MiB'"),
    ({"rtf": 0.1}, "rtf: .* give cost_table as well, .* -m espnet_des.bin.cost_table"),
    ({"ms": "50"}, "ms: .* give cost_table as well"),
    ({"ms": "50", "slices": "a", "cost_table": "b"}, "cost_table: b .* without slices"),
    ({"macs": 1, "cost_table": "b"}, "cost_table: b tells times"),
    ({"ms": 1, "cost_table": "absent"}, "cost_table: absent is no table .*FileNotFound"),
])  # fmt: skip
def test_what_cannot_be_chosen_is_said(supernet, asked, says):
    with pytest.raises(ConfigError, match=says):
        chosen_size(*supernet, **asked)


def test_models_without_sizes_are_refused(supernet, tmp_path):
    file = extract_subnet(*supernet, 3, tmp_path / "part")
    with pytest.raises(ConfigError, match="params: .* this is a model of one size only"):
        chosen_size(file.with_name("config.yaml"), file, params=1)
    state = load(supernet[1])
    state["encoder.selection.ranking"].zero_()
    torch.save(state, tmp_path / "stage1.pth")
    with pytest.raises(ConfigError, match="params: no size can be chosen: .* stage 1"):
        chosen_size(supernet[0], tmp_path / "stage1.pth", params=1)


def test_a_table_of_another_model_is_refused(supernet, table, tmp_path):
    content, path = json.loads(table.read_text()), tmp_path / "other.json"
    for key, other in (
        ("output_size", 16), ("num_blocks", 3), ("encoder", "des_transformer"),
        ("parameters_of_layers", dict.fromkeys(table_kinds(table), 1)),
    ):  # fmt: skip
        path.write_text(json.dumps(content | {"model": content["model"] | {key: other}}))
        with pytest.raises(ConfigError, match=f"other.json is of another model: its {key} is"):
            chosen_size(*supernet, ms=50, cost_table=path)
