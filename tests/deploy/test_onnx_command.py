"""export_onnx on a trained supernet, and its file without ESPnet and torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_des.errors import ConfigError
from tests.train import make_data, train_here

EXAMPLE = Path(__file__).parents[2] / "espnet_des/deploy/onnx/example.py"


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """A trained supernet; its experiment folder, with the data beside it."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    return train_here(folder, folder, max_epoch=3, encoder_conf__output_size=32,
                      encoder_conf__linear_units=32)  # fmt: skip


def arguments(supernet, **changes):
    data = supernet.parent
    found = {
        "asr_train_config": supernet / "config.yaml",
        "asr_model_file": supernet / "valid.cer_ctc.ave.pth",
        "output": data / "model.onnx", "size": 5, "wav_scp": data / "wav.scp",
        "text": data / "text",
    }  # fmt: skip
    return found | changes


def test_the_command_writes_a_file_that_runs_alone(supernet):
    options = arguments(supernet, quantize="int8")
    command = [sys.executable, "-m", "espnet_des.bin.export_onnx"]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WER: " in done.stdout and "of PyTorch" in done.stdout
    # The example, where ESPnet, torch and this package cannot be imported.
    wavs = dict(line.split() for line in options["wav_scp"].read_text().splitlines())
    alone = (
        "import runpy, sys\n"
        "for name in ('torch', 'espnet2', 'espnet_des'): sys.modules[name] = None\n"
        f"sys.argv = {[str(EXAMPLE), str(options['output']), *wavs.values()]!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    shown = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    texts = dict(line.split(" ", 1) for line in shown.stdout.splitlines())
    assert set(texts) == set(wavs.values())


def test_float_gives_the_text_of_pytorch(supernet, tmp_path):
    from espnet_des.deploy.onnx.export import export_onnx, load_one_size
    from espnet_des.deploy.onnx.graph import run, session

    for source in ("waveform", "features"):
        done = export_onnx(
            **arguments(supernet, output=tmp_path / f"{source}.onnx", source=source)
        )
        assert done.difference < 1e-3 and done.agreement == 1.0
        assert done.wer["onnx"] == done.wer["pytorch"]
        assert [p.name for p in tmp_path.glob(f"{source}*")] == [f"{source}.onnx"]
    loaded = session(tmp_path / "waveform.onnx")
    about = {k: json.loads(v) for k, v in loaded.get_modelmeta().custom_metadata_map.items()
             if k in ("min_length", "sampling_rate", "num_layers")}  # fmt: skip
    assert (about["sampling_rate"], about["num_layers"]) == (8000, 5)
    shortest = torch.randn(1, about["min_length"])
    log_probs, lengths = run(loaded, shortest, torch.tensor([shortest.size(1)]))
    assert lengths.tolist() == [log_probs.shape[1]] == [1]
    # From the extracted size, too.
    config, file = (arguments(supernet)[k] for k in ("asr_train_config", "asr_model_file"))
    load_one_size(config, file, 5, tmp_path)
    again = export_onnx(tmp_path / "subnet/config.yaml", tmp_path / "subnet" / file.name,
                        tmp_path / "again.onnx")  # fmt: skip
    assert again.num_bytes == (tmp_path / "waveform.onnx").stat().st_size


def test_very_short_audio_in_the_list_is_no_obstacle(supernet, tmp_path):
    from espnet_des.deploy.onnx.export import export_onnx

    lines = (supernet.parent / "wav.scp").read_text().splitlines()[:3]
    for name, samples in (("empty", 0), ("short", 100)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(samples, 0.1), 8000)
        lines.append(f"{name} {tmp_path / name}.wav")
    scp, text = tmp_path / "wav.scp", tmp_path / "text"
    scp.write_text("\n".join(lines) + "\n")
    text.write_text("".join(f"{line.split()[0]} A\n" for line in lines))
    done = export_onnx(
        **arguments(supernet, output=tmp_path / "x.onnx", wav_scp=scp, text=text)
    )
    assert done.wer["onnx"] == done.wer["pytorch"]
    scp.write_text(lines[-1] + "\n")
    with pytest.raises(ConfigError, match="no audio longer than"):
        export_onnx(**arguments(supernet, output=tmp_path / "y.onnx", wav_scp=scp, text=text))


@pytest.mark.parametrize("changes, says", [
    ({"size": 4}, r"size: 4 must be one of \[3, 5, 8\]"),
    ({"size": None}, "say which of its sizes"),
    ({"quantize": "int4"}, "quantize: 'int4' must be one of"),
    ({"source": "mel"}, "source: 'mel' must be one of"),
    ({"output": Path("model.pth")}, "must end in .onnx"),
    ({"wav_scp": None}, "give wav_scp as well"),
])  # fmt: skip
def test_what_cannot_be_exported_is_said(supernet, tmp_path, changes, says):
    from espnet_des.deploy.onnx.export import export_onnx

    with pytest.raises(ConfigError, match=says):
        export_onnx(**(arguments(supernet, output=tmp_path / "x.onnx") | changes))
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_left(supernet, tmp_path, monkeypatch):
    from espnet_des.deploy.onnx import reference
    from espnet_des.deploy.onnx.export import export_onnx

    monkeypatch.setattr(reference, "TOLERANCE", 0.0)
    with pytest.raises(ConfigError, match="was not written: its log-probabilities differ"):
        export_onnx(**arguments(supernet, output=tmp_path / "x.onnx"))
    assert not list(tmp_path.iterdir())
