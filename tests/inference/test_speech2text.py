"""Speech2Text at any size: as the extracted model, packed, in threads, on bad audio."""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import espnet_des
from espnet2.tasks.enh_s2t import EnhS2TTask
from espnet_des.deploy.extract import extract_subnet
from espnet_des.errors import ConfigError
from tests.train import ROOT, make_data, train_here

SIZES = [3, 5, 8]
SEARCH = {"beam_size": 3, "ctc_weight": 0.5, "maxlenratio": -4}
ENV = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained hybrid supernet in ``exp`` and its sizes in ``size3``, ...: the folder."""
    folder = tmp_path_factory.mktemp("trained")
    make_data(folder)
    with contextlib.chdir(folder):
        # Kept in the archive, where its path must be found again.
        np.savez("stats.npz", count=10, sum=np.full(16, -50.0), sum_square=np.full(16, 300.0))
        exp = train_here(
            folder, folder, max_epoch=3, model_conf__ctc_weight=0.3, decoder="transformer",
            decoder_conf={"attention_heads": 2, "linear_units": 8, "num_blocks": 1},
            normalize="global_mvn", normalize_conf={"stats_file": "stats.npz"},
        )  # fmt: skip
        for size in SIZES:
            extract_subnet(
                exp / "config.yaml",
                exp / "valid.cer_ctc.ave.pth",
                size,
                folder / f"size{size}",
            )
    return folder


@pytest.fixture(autouse=True)
def work_there(trained, monkeypatch):
    monkeypatch.chdir(trained)


def load(folder, **options):
    return espnet_des.Speech2Text(
        f"{folder}/config.yaml", f"{folder}/valid.cer_ctc.ave.pth", **(SEARCH | options)
    )


@pytest.fixture(scope="module")
def whole(trained):
    with contextlib.chdir(trained):
        return load("exp")


@pytest.fixture
def speech():
    return 0.1 * torch.randn(4000)


def best(results):
    text, _, ids, hypothesis = results[0]
    return [text, ids, float(hypothesis.score)]


@pytest.mark.parametrize("size", SIZES)
def test_a_size_recognises_as_the_extracted_model_does(whole, speech, size):
    part = load(f"size{size}")
    assert (part.size, part.sizes) == (size, [size])
    whole.set_size(size)
    assert (whole.size, whole.sizes) == (size, SIZES)
    assert best(whole(speech)) == best(part(speech))
    assert best(load("exp", size=size)(speech)) == best(part(speech))
    batch = [speech, speech[:2500].numpy()]
    assert [best(r) for r in whole(batch)] == [best(r) for r in part(batch)]


def test_sizes_differ_and_the_full_one_is_the_default(whole, speech):
    scores = []
    for size in (3, 8):
        whole.set_size(size)
        scores.append(best(whole(speech))[2])
    assert scores[0] != scores[1]
    assert load("exp").size == 8
    whole.set_size(3)
    whole.set_size(None)
    assert whole.size == 8 and best(whole(speech))[2] == scores[1]


@pytest.fixture
def shared(trained):
    """The supernet without the weights that its smaller sizes own: a folder with some."""
    folder = trained / "shared"
    if not folder.exists():
        folder.mkdir()
        config = yaml.safe_load((trained / "exp/config.yaml").read_text())
        config["encoder_conf"]["own_weights"] = False
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        state = torch.load(trained / "exp/valid.cer_ctc.ave.pth")
        state = {k: v for k, v in state.items() if not k.startswith("encoder.own.")}
        torch.save(state, folder / "valid.cer_ctc.ave.pth")
        model = folder / "config.yaml", folder / "valid.cer_ctc.ave.pth"
        extract_subnet(*model, 3, trained / "shared_size3")
    return folder.name


def test_a_quantized_model_changes_its_size(shared, speech):
    quantized, whole = load(shared, quantize_asr_model=True, size=3), load(shared)
    heads = quantized.asr_model.ctc.ctc_lo.heads
    assert "quantized" in type(heads["size3"]).__module__
    part = load("shared_size3", quantize_asr_model=True)
    assert best(quantized(speech)) == best(part(speech))
    for size in SIZES:
        quantized.set_size(size)
        whole.set_size(size)
        difference = best(quantized(speech))[2] - best(whole(speech))[2]
        assert 0 < abs(difference) < 0.2


def test_a_quantized_model_of_sizes_with_weights_of_their_own_stays_at_full_size(speech):
    with pytest.raises(ConfigError, match="own_weights: .* extract the size"):
        load("exp", quantize_asr_model=True, size=3)
    quantized = load("exp", quantize_asr_model=True)
    best(quantized(speech))
    with pytest.raises(ConfigError, match="own_weights: .* extract the size"):
        quantized.set_size(3)
    assert quantized.size == 8


@pytest.mark.parametrize("size", [4, 0, "3", 3.0, True])
def test_a_size_that_is_none_is_refused(whole, size):
    whole.set_size(5)
    with pytest.raises(ConfigError, match=r"size: .* must be one of \[3, 5, 8\]"):
        whole.set_size(size)
    assert whole.size == 5
    with pytest.raises(ConfigError, match="size: "):
        load("exp", size=size)
    with pytest.raises(ConfigError, match="is a model of 3 layers only .* or give 3") as error:
        load("size3", size=4)
    assert "SubnetConformerEncoder" in str(error.value)
    whole.set_size(np.int64(3))
    assert type(whole.size) is int


def stock_model(folder: Path, encoder: str, **encoder_conf):
    """An untrained model of ESPnet's own classes."""
    import espnet2.tasks.asr as asr

    config = yaml.safe_load(Path("exp/config.yaml").read_text())
    config |= {"encoder": encoder, "encoder_conf": encoder_conf, "model": "espnet",
               "model_conf": {"ctc_weight": 0.3}}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    model = asr.ASRTask.build_model(argparse.Namespace(**config))
    torch.save(model.state_dict(), folder / "valid.cer_ctc.ave.pth")


def test_stock_models_have_one_size(tmp_path, speech):
    small = {"output_size": 8, "attention_heads": 2, "linear_units": 8, "num_blocks": 1}
    stock_model(tmp_path, "conformer", macaron_style=True, **small)
    assert load(tmp_path).size == 4
    conformer = load(tmp_path, size=4)
    assert isinstance(best(conformer(speech))[0], str)
    with pytest.raises(ConfigError, match="size: 3 .* of 4 layers only"):
        conformer.set_size(3)
    stock_model(tmp_path, "transformer", **small)
    assert load(tmp_path).sizes == [2]
    rnn = {"rnn_type": "lstm", "hidden_size": 8, "output_size": 8, "num_layers": 1}
    stock_model(tmp_path, "rnn", **rnn)
    recurrent = load(tmp_path)
    assert (recurrent.size, recurrent.sizes) == (None, [])
    with pytest.raises(ConfigError, match="size: 1 .*RNNEncoder.*; leave size out"):
        recurrent.set_size(1)


def test_a_model_of_stage_1_has_the_full_size_only(tmp_path):
    state = torch.load("exp/3epoch.pth", weights_only=True)
    state["encoder.selection.ranking"].zero_()
    torch.save(state, tmp_path / "stage1.pth")
    model = espnet_des.Speech2Text("exp/config.yaml", tmp_path / "stage1.pth")
    with pytest.raises(ConfigError, match="size: 3 .* stage 1"):
        model.set_size(3)


def test_errors_of_loading_name_what_is_at_fault(tmp_path):
    torch.save([1], tmp_path / "valid.cer_ctc.ave.pth")
    (tmp_path / "config.yaml").write_text(Path("exp/config.yaml").read_text())
    for folder, names in ((tmp_path, "asr_model_file: .*ave.pth"),
                          (tmp_path / "no", "asr_train_config: .*no/config.yaml")):  # fmt: skip
        with pytest.raises(ConfigError, match=names):
            load(folder)
    with pytest.raises(ConfigError, match="asr_model_file: None"):
        espnet_des.Speech2Text("exp/config.yaml")
    # What is not the model's fault stays what it is.
    with pytest.raises(TypeError, match="unexpected keyword argument 'beam'"):
        load("exp", beam=3)
    with pytest.raises(FileNotFoundError, match="lm.yaml"):
        load("exp", lm_train_config="lm.yaml", lm_file="lm.pth")
    beside = espnet_des.Speech2Text(asr_model_file="size3/valid.cer_ctc.ave.pth", **SEARCH)
    assert beside.size == 3


@pytest.mark.parametrize("nothing", [torch.zeros(0), torch.zeros(1), torch.ones(64),
                                     0.1 * torch.ones(200), torch.zeros(4000),
                                     np.zeros(300, "float32")])  # fmt: skip
def test_audio_without_speech_gives_no_text(whole, speech, nothing):
    result = whole(nothing)
    assert best(result) == ["", [], 0.0] and result[0][1] == []
    assert result[0][3].yseq.tolist()[1:-1] == []
    results = whole([nothing, speech, nothing])
    assert [best(r)[:2] for r in results[::2]] == [["", []]] * 2
    assert best(results[1]) == best(whole([speech])[0])
    padded = torch.nn.functional.pad(torch.as_tensor(nothing), (0, 4000 - len(nothing)))
    results = whole.batch_decode(torch.stack([speech, padded]), [4000, len(nothing)])
    assert [best(r)[1] for r in results] == [best(whole([speech])[0])[1], []]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_refused(whole, speech, value):
    speech[7] = value
    for wave in (speech, speech.numpy()):
        with pytest.raises(ValueError, match="speech: 1 of 4000 samples are NaN or infinite"):
            whole(wave)
    with pytest.raises(ValueError, match=r"speech\[1\]: 1 of 4000 samples"):
        whole([torch.zeros(4000), speech])


def test_of_several_channels_the_first_is_heard_in_a_batch_too(whole, speech):
    stereo = torch.stack([speech, 3 * torch.randn(4000)], 1)
    alone = best(whole(stereo))
    assert alone == best(whole(speech))
    assert [best(r) for r in whole([stereo, stereo[:3000]])] == [
        alone,
        best(whole(speech[:3000])),
    ]
    assert best(whole.batch_decode(stereo[None], [4000])[0]) == alone


def test_a_model_of_enhancement_and_recognition_has_one_size(tmp_path):
    stft = {"n_fft": 64, "hop_length": 32}
    small = {"linear_units": 16, "num_blocks": 1, "attention_heads": 2}
    config = EnhS2TTask.get_default_config() | {
        "enh_encoder": "stft", "enh_encoder_conf": stft, "enh_decoder": "stft",
        "enh_decoder_conf": stft, "enh_separator": "rnn",
        "enh_separator_conf": {"num_spk": 1, "layer": 1, "unit": 8},
        "enh_criterions": [{"name": "mse", "conf": {"compute_on_mask": False},
                            "wrapper": "fixed_order", "wrapper_conf": {}}],
        "frontend_conf": stft | {"n_mels": 20}, "subtask_series": ["enh", "asr"],
        "token_list": ["<blank>", "<unk>", "a", "b", "<sos/eos>"], "token_type": "char",
        "encoder": "transformer", "encoder_conf": small | {"output_size": 16},
        "decoder": "transformer", "decoder_conf": small,
    }  # fmt: skip
    known = {key: value for key, value in config.items() if not callable(value)}
    files = tmp_path / "config.yaml", tmp_path / "model.pth"
    files[0].write_text(yaml.safe_dump(known))
    built, args = EnhS2TTask.build_model_from_file(files[0])
    files[0].write_text(yaml.safe_dump(vars(args)))
    torch.save(built.state_dict(), files[1])
    model = espnet_des.Speech2Text(*files, enh_s2t_task=True, beam_size=2)
    assert model.sizes == [] and len(model(torch.randn(4000))) == 1
    assert model(torch.zeros(4000))[0][0][:2] == ("", [])
    with pytest.raises(ConfigError, match="of one size only .ESPnetEnhS2TModel"):
        model.set_size(3)


def pack(exp: str, zip_file: Path) -> None:
    """As the recipe's stage 14 does."""
    subprocess.run(
        [sys.executable, "-m", "espnet_des", "-m", "espnet2.bin.pack", "asr",
         "--asr_train_config", f"{exp}/config.yaml",
         "--asr_model_file", f"{exp}/valid.cer_ctc.ave.pth", "--option", "stats.npz",
         "--outpath", str(zip_file)], env=ENV, check=True,
    )  # fmt: skip


def test_packed_models_load_in_a_fresh_process(whole, speech, tmp_path):
    pack("size3", tmp_path / "part.zip")
    pack("exp", tmp_path / "whole.zip")
    np.save(tmp_path / "speech.npy", speech.numpy())
    script = """
        import json, sys, numpy, espnet_des
        speech = numpy.load("speech.npy")
        options = json.loads(sys.argv[1])
        load = espnet_des.Speech2Text.from_pretrained
        for tag, size in (("part.zip", None), ("whole.zip", 3), ("whole.zip", None)):
            model = load(tag, size=size, **options)
            (text, _, ids, hypothesis), = model(speech)
            print(json.dumps([model.size, text, ids, float(hypothesis.score)]))
    """
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    # Elsewhere: what the archive lacks would not be found.
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), json.dumps(SEARCH)], cwd=tmp_path,
        env=ENV | {"HOME": str(temporary), "TMPDIR": str(temporary)},
        text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = []
    for size in (3, 3, 8):
        whole.set_size(size)
        expected.append([size, *best(whole(speech))])
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    assert not list(temporary.glob("espnet_des.*"))


def test_what_is_unpacked_lives_as_long_as_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pack("size3", tmp_path / "part.zip")
    model = espnet_des.Speech2Text.from_pretrained(tmp_path / "part.zip")
    assert len(list(tmp_path.glob("espnet_des.*"))) == 1
    del model
    gc.collect()
    assert not list(tmp_path.glob("espnet_des.*"))
    with pytest.raises(ConfigError, match="size: 7"):
        espnet_des.Speech2Text.from_pretrained(tmp_path / "part.zip", size=7)
    gc.collect()
    assert not list(tmp_path.glob("espnet_des.*"))


def test_archives_that_are_none_are_named(tmp_path):
    load_packed = espnet_des.Speech2Text.from_pretrained
    (tmp_path / "text.zip").write_text("no archive")
    (tmp_path / "model.pth").write_text("no archive")
    for name, says in (
        ("absent.zip", "is no file"),
        ("text.zip", "BadZipFile"),
        ("model.pth", "Cannot detect archive format"),
        ("", "is no file"),
    ):
        with pytest.raises(ConfigError, match=f"model_tag: .*{name}.*{says}"):
            load_packed(tmp_path / name)
    assert load_packed(asr_model_file="size3/valid.cer_ctc.ave.pth").size == 3


THREADS = """
    import json, sys, threading
    import numpy

    speech, options = numpy.load(sys.argv[1]), json.loads(sys.argv[2])
    start, results = threading.Barrier(3), {}

    def recognise(size):
        start.wait()  # the imports, too, are at the same time
        import espnet_des
        model = espnet_des.Speech2Text(
            "exp/config.yaml", "exp/valid.cer_ctc.ave.pth", size=size, **options)
        results[size] = []
        for _ in range(5):
            (text, _, ids, hypothesis), = model(speech)
            results[size].append([text, ids, float(hypothesis.score)])

    def other():
        start.wait()
        import espnet_des
        import espnet2.tasks.asr as asr
        results["known"] = "des_conformer" in asr.encoder_choices.classes

    threads = [threading.Thread(target=recognise, args=(s,)) for s in (3, 8)]
    threads.append(threading.Thread(target=other))
    [t.start() for t in threads]
    [t.join() for t in threads]
    print(json.dumps(results))
"""


def test_threads_with_models_of_their_own_do_not_meet(whole, speech, tmp_path):
    np.save(tmp_path / "speech.npy", speech.numpy())
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(THREADS), tmp_path / "speech.npy",
         json.dumps(SEARCH)], env=ENV, text=True, capture_output=True,
    )  # fmt: skip
    results = json.loads(done.stdout.splitlines()[-1])
    assert results.pop("known") is True, done.stderr
    assert set(results) == {"3", "8"}, done.stderr
    for size in (3, 8):
        whole.set_size(size)
        assert results[str(size)] == [best(whole(speech))] * 5


def test_the_plugin_registers_while_another_thread_imports_espnet():
    """The module is there then, but neither complete nor seen by the hook."""
    script = """
        import importlib, sys, threading, time
        thread = threading.Thread(target=importlib.import_module, args=("espnet2.tasks.asr",))
        thread.start()
        while "espnet2.tasks.asr" not in sys.modules:
            time.sleep(0.001)
        assert not hasattr(sys.modules["espnet2.tasks.asr"], "ASRTask")
        import espnet_des
        thread.join()
        asr = sys.modules["espnet2.tasks.asr"]
        print("des_conformer" in asr.encoder_choices.classes, asr.ASRTask.__module__)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=ENV,
                          text=True, capture_output=True)  # fmt: skip
    assert done.stdout == "True espnet_des.task\n", done.stderr


def test_the_name_is_there_before_anything_is_imported():
    script = (
        "import espnet_des, sys; assert 'Speech2Text' in dir(espnet_des)\n"
        "assert not hasattr(espnet_des, 'speech2text')\n"
        "assert 'torch' not in sys.modules; from espnet_des import Speech2Text\n"
        "import espnet2.bin.asr_inference as stock\n"
        "print(issubclass(Speech2Text, stock.Speech2Text), espnet_des.Speech2Text is Speech2Text)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=ENV, text=True,
                          capture_output=True)  # fmt: skip
    assert done.stdout == "True True\n", done.stderr
