"""The page in ``web/``, used in a headless browser, beside Python's own decoding."""

import contextlib
import functools
import json
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch

from espnet_des.deploy.onnx.example import recognise
from espnet_des.deploy.web import prepare_web
from tests.train import make_data, train_here

WEB = Path(__file__).parents[2] / "web"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MISSING = [
    what for what, is_there in (
        ("node (nodejs.org)", shutil.which("node")),
        ("chromium (apt-get install chromium)", CHROMIUM),
        ("web/node_modules (make test-web, or npm ci in web)",
         (WEB / "node_modules/playwright-core").exists()),
    ) if not is_there
]  # fmt: skip
pytestmark = [
    pytest.mark.web,
    pytest.mark.skipif(bool(MISSING), reason=f"missing: {', '.join(MISSING)}"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder: Path):
    """The address of a folder, as ``make demo-web`` serves it."""
    handler = functools.partial(Quiet, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def make_site(folder: Path, runtime: bool = True) -> Path:
    folder.mkdir()
    for name in ("index.html", "page.js", "page.css"):
        shutil.copy(WEB / name, folder)
    if runtime:
        (folder / "node_modules").symlink_to(WEB / "node_modules")
    return folder


def use(site: Path, **files: Path) -> dict:
    """What :file:`drive.mjs` sees on the page of a site."""
    with served(site) as url:
        given = {"url": url, "chromium": CHROMIUM, "profile": site.parent / "profile"} | files
        command = [
            "node",
            Path(__file__).with_name("drive.mjs"),
            json.dumps(given, default=str),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"url": url}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Of a tiny supernet whose blanks are unlikely, so that there is text to compare."""
    folder = tmp_path_factory.mktemp("supernet")
    make_data(folder)
    exp = train_here(folder, folder, max_epoch=3, encoder_conf__output_size=32,
                     encoder_conf__linear_units=32)  # fmt: skip
    state = torch.load(exp / "valid.cer_ctc.ave.pth")
    for key, value in state.items():
        if key.startswith("ctc.ctc_lo.") and key.endswith("bias"):
            value[0] -= 3.0
    torch.save(state, exp / "talkative.pth")
    prepare_web(exp / "config.yaml", exp / "talkative.pth", folder / "models", [folder],
                sizes=[3, 8], num_samples=2)  # fmt: skip
    return folder / "models"


@pytest.fixture(scope="module")
def seen(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen")
    site = make_site(folder / "site")
    (site / "models").symlink_to(models)
    (folder / "letter.txt").write_text("This is no audio.\n" * 10)
    sound = 0.1 * np.random.default_rng(0).standard_normal((44100, 2))
    soundfile.write(folder / "stereo.flac", sound, 44100)
    return use(site, noAudio=folder / "letter.txt", stereo=folder / "stereo.flac")


def test_every_size_gives_the_text_of_python(seen, models):
    about = json.loads((models / "tokens.json").read_text("utf-8"))
    samples = json.loads((models / "samples.json").read_text("utf-8"))
    expected = {}
    for kind in ("int8", "float32"):
        for size in (3, 8):
            session = onnxruntime.InferenceSession(models / f"{kind}/size{size}.onnx")
            for number, sample in enumerate(samples):
                speech, _ = soundfile.read(models / sample["file"], dtype="float32")
                expected[f"{number} {kind} {size}"] = recognise(session, about, speech)
    assert all(expected.values())
    assert seen["texts"] == expected
    assert all(float(time.removesuffix(" ms")) > 0 for time in seen["times"].values())


def test_the_slider_changes_the_size_that_is_shown(seen, models):
    sizes = json.loads((models / "sizes.json").read_text("utf-8"))["sizes"]
    shown = seen["sizes"]
    assert len(shown) == 4
    for one in sizes:
        found = shown[f"float32 {one['size']}"]
        assert int(found["params"].replace(",", "")) == one["params"]
        assert float(found["macs"]) == pytest.approx(one["macs_per_second"] / 1e6, rel=0.01)
        megabytes = one["weights"]["float32"]["bytes"] / 1e6
        assert float(found["bytes"].removesuffix(" MB")) == pytest.approx(megabytes, rel=0.01)
    assert seen["rows"] == 4  # each is in the table once, however often it ran
    assert seen["reference"].startswith("Spoken: ")


def test_what_was_done_with_the_audio_is_told(seen):
    assert seen["conversion"].endswith("It has the model's 8000 Hz.")
    _, conversion, message = seen["stereo"]
    assert "resampled it from 44100 to the model's 8000 Hz" in conversion
    assert "Its 2 channels are averaged" in conversion and message == ""


def test_a_file_that_is_no_audio_is_told(seen):
    message, text = seen["noAudio"]
    assert message.startswith(
        "letter.txt is no audio that this browser can read. Choose a WAV"
    )
    assert text == ""


def test_the_microphone(seen):
    assert "No microphone could be opened (NotFoundError)" in seen["noMicrophone"]
    conversion, message = seen["recorded"]
    assert conversion.startswith("The recording: ") and message == ""


def test_nothing_comes_from_elsewhere_and_nothing_fails(seen):
    own = (seen["url"], f"blob:{seen['url']}")
    assert [address for address in seen["requests"] if not address.startswith(own)] == []
    assert seen["errors"] == []


@pytest.mark.parametrize(
    "runtime, says",
    [
        (True, "web/models/sizes.json is missing. Run make demo-web"),
        (False, "onnxruntime-web is missing. Run npm ci"),
    ],
)
def test_what_is_missing_is_told(tmp_path, request, runtime, says):
    site = make_site(tmp_path / "site", runtime)
    if not runtime:
        (site / "models").symlink_to(request.getfixturevalue("models"))
    assert says in use(site)["message"]
