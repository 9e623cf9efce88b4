"""sherpa-onnx: its samples get their level back, and its text is that of the tokens."""

import numpy
import onnx
import onnx.parser
import pytest
import torch

from espnet_des.deploy.onnx.graph import run, session
from espnet_des.deploy.onnx.sherpa.graph import IMPOSSIBLE, AsSherpa, mark, normalised, wrap
from espnet_des.deploy.onnx.sherpa.recognise import recogniser
from espnet_des.deploy.onnx.sherpa.tokens import (
    joined,
    symbols,
    tokens_file,
    written_otherwise,
)
from espnet_des.errors import ConfigError

SHORTEST = 700
# An "export" whose log-probabilities are the samples, four to a frame.
SAMPLES = """
<ir_version: 8, opset_import: ["" : 18]>
samples (float[batch, time] speech, int64[batch] speech_lengths)
    => (float[batch, frames, 4] log_probs, int64[batch] lengths)
<int64[3] shape = {1, -1, 4}>
{
  log_probs = Reshape (speech, shape)
  lengths = Identity (speech_lengths)
}
"""
CHARACTERS = ["<blank>", "<unk>", "A", "<space>", "SIL", "</s>", "é", "日", "1", "<sos/eos>"]
PIECES = ["<blank>", "<unk>", "▁A", "B", "▁", "A▁", "▁</s>", "SIL", "▁SIL", "A▁B", "É"]
WORDS = ["<blank>", "<unk>", "ONE", "SIL", "2", "ƀ日", "<sos/eos>"]


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrapped")
    onnx.save(onnx.parser.parse_model(SAMPLES), folder / "plain.onnx")
    wrap(folder / "plain.onnx", folder / "wrapped.onnx", SHORTEST, {"source": "1"})
    return session(folder / "wrapped.onnx", threads=1)


def restored(wrapped, samples):
    """What the export gets, of these samples ``(n,)`` as sherpa-onnx normalises them."""
    return wrapped.run(None, {"x": normalised(samples)[None]})[0].reshape(-1)


def speechlike(samples, rms, seed=0):
    """Noise that swells and fades, without an offset."""
    noise = numpy.random.default_rng(seed).laplace(size=samples)
    noise *= 0.2 + numpy.sin(numpy.arange(samples) / 4000) ** 2
    noise *= rms / noise.std()
    return (noise - noise.mean()).astype(numpy.float32)


@pytest.mark.parametrize("rms", [1e-4, 0.003, 0.03, 0.1, 0.2])
def test_the_level_comes_back(wrapped, rms):
    for count in (SHORTEST, 16000, 480000):
        wave = speechlike(count, rms).clip(-1, 1)
        wave -= wave.mean()
        found = restored(wrapped, wave)
        level = numpy.log10(found.std() / wave.std()) * 20
        assert abs(level) < 0.05, "in dB"
        numpy.testing.assert_allclose(found, wave, rtol=0.01, atol=1e-7)


def test_without_a_sign_of_the_level_it_is_full_scale(wrapped):
    wave = speechlike(16000, 0.1)
    exactly_one = (wave / wave.astype(float).std() * 1.001).astype(numpy.float32)
    found = wrapped.run(None, {"x": exactly_one[None]})[0]
    assert numpy.abs(found).max() == pytest.approx(1)


def test_digital_silence_tells_the_offset(wrapped):
    wave = speechlike(32000, 0.05) + numpy.float32(0.002)
    wave[9000:9050] = wave[20000:26000] = 0
    found = restored(wrapped, wave)
    assert not found[20000:26000].any() and not found[9000:9050].any()
    numpy.testing.assert_allclose(found, wave, rtol=1e-3, atol=1e-6)
    # Clipped samples, which are equal too, are no silence.
    wave = speechlike(32000, 0.05)
    wave[5000:5100] = 0.9
    found = restored(wrapped, wave)
    numpy.testing.assert_allclose(found, wave - wave.mean(), rtol=0.01, atol=1e-5)


@pytest.mark.parametrize("rms", [1e-4, 0.003, 0.1, 0.5])
def test_with_the_mark_the_samples_come_back(wrapped, rms):
    for count, offset in ((SHORTEST, 0.001), (16001, -0.02), (960000, 0.2)):
        count -= count % 4  # of the model
        wave = speechlike(count, rms) + numpy.float32(offset)
        found = restored(wrapped, numpy.concatenate((mark(), wave)))
        # float32's steps of what was added to them
        numpy.testing.assert_allclose(found, wave, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rms", [1e-3, 0.03, 0.5])
def test_samples_of_16_bits_come_back_bit_by_bit(wrapped, rms):
    wave = (speechlike(160000, rms) * 32768 + 40).clip(-32768, 32767).round() / 32768
    found = restored(wrapped, numpy.concatenate((mark(), wave.astype(numpy.float32))))
    assert (found == wave).all()


def test_with_the_mark_silence_and_short_audio_are_blank(wrapped):
    for wave in (numpy.zeros(2000), speechlike(SHORTEST - 1, 0.1)):
        found = restored(wrapped, numpy.concatenate((mark(), wave))).reshape(-1, 4)
        assert (found[:, 0] == 0).all() and (found[:, 1:] == IMPOSSIBLE).all()


def test_nothing_to_recognise_is_blank(wrapped):
    blank = [0, *[IMPOSSIBLE] * 3]
    for wave in (numpy.zeros(2000), speechlike(SHORTEST - 1, 0.1), numpy.ones(1)):
        found = wrapped.run(None, {"x": normalised(wave)[None]})[0][0]
        assert found.tolist() == [blank] * len(found) and len(found)
    assert (
        wrapped.run(None, {"x": numpy.zeros((1, 0), numpy.float32)})[0][0, 0].tolist() == blank
    )


@pytest.mark.parametrize("marked", [True, False])
def test_it_is_called_as_its_export_would_be(wrapped, marked):
    waves = [speechlike(2000, 0.1), speechlike(1000, 0.1, seed=1)]
    padded = torch.zeros(2, 2000)
    for row, wave in zip(padded, waves):
        row[: len(wave)] = torch.from_numpy(wave)
    log_probs, lengths = run(AsSherpa(wrapped, marked), padded, torch.tensor([2000, 1000]))
    assert lengths.tolist() == [500, 250]
    for row, wave, frames in zip(log_probs, waves, lengths):
        numpy.testing.assert_allclose(row[:frames].reshape(-1), wave, atol=1e-4)


def test_the_vocabulary_stands_in_the_shape(wrapped):
    """Where sherpa-onnx reads it; and there is one input and one output."""
    (given,), (found,) = wrapped.get_inputs(), wrapped.get_outputs()
    assert (given.name, len(given.shape), found.name, found.shape[2]) == ("x", 2, "logits", 4)
    assert wrapped.get_modelmeta().custom_metadata_map == {"source": "1"}


def text_of_sherpa(folder, ids, found):
    """What the wheel makes of these ids, of a "model" that knows nothing else."""
    path = [number for i in ids for number in (i, 0)]
    onnx.save(
        onnx.parser.parse_model(
            f"""
            <ir_version: 8, opset_import: ["" : 18]>
            fixed (float[batch, time] x) => (float[batch, frames, {len(found)}] logits)
            <int64[1, {len(path)}] ids = {{{", ".join(map(str, path))}}},
             int64 depth = {{{len(found)}}}, float[2] values = {{0, 1}}>
            {{ logits = OneHot <axis = -1> (ids, depth, values) }}
            """
        ),
        folder / "fixed.onnx",
    )
    (folder / "tokens.txt").write_text(tokens_file(found), encoding="utf-8")
    recognise = recogniser(folder / "fixed.onnx", marked=False)
    return recognise(numpy.ones(1000, numpy.float32))


@pytest.mark.parametrize(
    ("tokens", "token_type"), [(CHARACTERS, "char"), (PIECES, "bpe"), (WORDS, "word")]
)
def test_its_text_is_what_is_told_of_it(tmp_path, tokens, token_type):
    found = symbols(tokens, token_type)
    ids = [*range(1, len(tokens)), *range(len(tokens) - 1, 0, -1)]
    assert text_of_sherpa(tmp_path, ids, found) == joined(found[i] for i in ids)


def test_words_and_spaces_are_those_of_espnet(tmp_path):
    from espnet2.text.build_tokenizer import build_tokenizer

    for tokens, token_type, ids in (
        (CHARACTERS, "char", [2, 6, 3, 8, 3, 2, 7]), (WORDS, "word", [2, 4, 2, 5])
    ):  # fmt: skip
        ours = build_tokenizer(token_type).tokens2text([tokens[i] for i in ids])
        assert text_of_sherpa(tmp_path, ids, symbols(tokens, token_type)) == ours


def test_tokens_that_become_another_text_are_told():
    tokens = [*CHARACTERS, *"BCDEFGHIJKLMNOPQRST"]
    found = symbols(tokens, "char")
    others = written_otherwise(tokens, found, lambda t: "".join(t).replace("<space>", " "))
    assert others == {"SIL": "SIL", "</s>": "</s>"}
    with pytest.raises(ConfigError, match="another text of 10 of 11 tokens, such as <unk>"):
        written_otherwise(PIECES, symbols(PIECES, "bpe"), lambda t: "-".join(t))


@pytest.mark.parametrize(
    ("tokens", "token_type", "says"),
    [
        (CHARACTERS, "phn", "token_type: phn: sherpa-onnx cannot make text"),
        (["<blank>", "A B"], "word", "cannot read '▁A B': white space"),
        (["<blank>", ""], "char", "cannot read '': white space"),
        (["<blank>", "A", "<blk>"], "char", "<blk> stands for the blank"),
        (["<blank>", "<0x00>", "<0xFF>"], "bpe", "text from single bytes"),
        (["<blank>", "A", "▁ơ"], "bpe", "with '▁ơ' and nothing of a later alphabet"),
    ],
)
def test_tokens_that_cannot_be_are_refused(tokens, token_type, says):
    with pytest.raises(ConfigError, match=says):
        symbols(tokens, token_type)
