"""ESPnet's own training configs with the encoder's name as the only change (``ESPNET_ROOT``).

Trained across the stages, extracted and decoded through the real commands; widths are tiny,
the kinds of modules are those of the configs.
"""

import contextlib
import io
import os
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from espnet_des.deploy.extract import extract_subnet
from espnet_des.errors import ConfigError
from espnet_des.inference.loading import load_model
from espnet_des.inference.speech2text import Speech2Text
from tests.espnet_configs import CORPORA, find, has_supernet, swapped
from tests.train import TOKENS, command_line, load, make_data

pytestmark = [pytest.mark.recipes, pytest.mark.usefixtures("upstreams")]
ROOT = os.environ.get("ESPNET_ROOT")
FOUND = dict(find(Path(ROOT), CORPORA)) if ROOT else {}
CONFIGS = {name: config for name, config in FOUND.items() if has_supernet(config)}
# Those that ESPnet's own asr_train does not take either.
LIGHTNING = "lightning_conf is of espnet2.bin.lightning_train; asr_train does not know it"


def build(config: dict, folder: Path):
    """The model that asr_train would train."""
    from espnet2.tasks.asr import ASRTask

    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(config | {"token_type": "char", "normalize": None}))
    tokens = folder / "tokens.txt"
    tokens.write_text("\n".join(TOKENS))
    args = ASRTask.get_parser().parse_args(
        ["--config", str(path), "--token_list", str(tokens)]
    )
    return ASRTask.build_model(args)


@pytest.mark.skipif(not ROOT, reason="ESPNET_ROOT is not set")
def test_what_espnet_builds_of_all_its_asr_configs_builds_as_a_supernet(tmp_path, capsys):
    """Or is refused by name. Prints how many of each encoder."""
    counts: dict[tuple, list] = {}
    for name, config in find(Path(ROOT)):
        if not has_supernet(config):
            counts.setdefault((config["encoder"], "no supernet form"), []).append(name)
            continue
        ours = swapped(config)
        stock = ours | {"encoder": config["encoder"]}
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            try:
                build(stock, tmp_path)
            except BaseException as error:
                why = f"ESPnet does not build it either ({type(error).__name__})"
                counts.setdefault((config["encoder"], why), []).append(name)
                continue
        try:
            build(ours, tmp_path)
        except ConfigError as error:
            found = (config["encoder"], str(error)[:160])
        else:
            found = (config["encoder"], "builds")
        counts.setdefault(found, []).append(name)
    with capsys.disabled():  # what the docs tell
        for (encoder, result), names in sorted(counts.items()):
            print(f"{len(names):4d} {encoder}: {result} ({names[0]})")
    assert sum(len(v) for (_, result), v in counts.items() if result == "builds") > 300


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, 16, 16000)
    return folder


@pytest.mark.skipif(not ROOT, reason="ESPNET_ROOT is not set")
def test_the_configs_are_there():
    assert len(CONFIGS) >= 40


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_trains_decodes_and_is_extracted(name, data, tmp_path):
    import espnet2.bin.asr_train as asr_train

    config = CONFIGS[name]
    if "lightning_conf" in config:
        pytest.skip(LIGHTNING)
    if config.get("decoder") == "s4":
        pytest.importorskip("opt_einsum", reason="ESPnet's s4 decoder needs it")
    config = swapped(config) | {"token_type": "char", "token_list": TOKENS, "normalize": None}
    asr_train.main(cmd=command_line(data, tmp_path, config))
    exp = tmp_path / "exp"
    file = exp / "latest.pth"
    assert load(file)["encoder.selection.ranking"].any()  # stage 2
    assert yaml.safe_load((exp / "config.yaml").read_text())["model"] == "des"
    model, _ = load_model(exp / "config.yaml", file)
    wave = torch.from_numpy(soundfile.read(data / "00.wav", dtype="float32")[0])
    smallest = model.encoder.sizes[0]
    own = extract_subnet(exp / "config.yaml", file, smallest, tmp_path / "small")
    options = {"beam_size": 2, "ctc_weight": 0.3, "maxlenratio": -4.0}
    if model.use_transducer_decoder:
        options = {"beam_size": 2}
    elif model.decoder is None:
        options["ctc_weight"] = 1.0
    whole = Speech2Text(exp / "config.yaml", file, size=smallest, **options)
    part = Speech2Text(own.with_name("config.yaml"), own, **options)
    found, expected = whole(wave), part(wave)
    if model.encoder.interctc_layer_idx:  # ESPnet tells what the exits say besides
        expected, _ = expected
    assert found[0][:3] == expected[0][:3]
