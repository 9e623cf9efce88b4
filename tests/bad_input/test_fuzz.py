"""Any bytes in the readers, any values for the encoder's keys: a result, or the error meant."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from espnet_des.corpus.kaldi import DataError, read_table, write_data_dir, write_table
from espnet_des.corpus.librispeech import _genders, _read_set
from espnet_des.corpus.tedlium2 import _read_set as _read_tedlium_set
from espnet_des.errors import ConfigError
from espnet_des.utils.audio import AudioError, find_audio
from tests.conftest import examples, make_model

pytestmark = pytest.mark.fuzzed

TALK, SECONDS = "T", 10


# Pieces of which lines are made that come near to being right.
PIECES = st.sampled_from([
    b"T", b"1", b"T 1 T", b"0", b"1.5", b"2", b"9.99", b"10.4", b"1e308", b"-1", b"nan",
    b"<o>", b"<o,f0,male>", b"w", b"'s", b"{NOISE}", b"(2)", b"<unk>", b"<sil>", b";;", b" ",
    b"  ", b"\t", b"\n", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\xa0",
    b"7-70-0000", b"7-70-0001", b"7-70", b"-", b"/", b"..", b"|", b"F", b"M", b"x.ark:3",
    b"ignore_time_segment_in_scoring", b"T 1 T 1.00 2.00 <o,f0,male> w\n", b"7-70-0002 W\n",
])  # fmt: skip
CONTENT = st.binary(max_size=60) | st.lists(PIECES | st.binary(max_size=4), max_size=30).map(
    b" ".join
) | st.lists(PIECES, max_size=30).map(b"".join)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A talk in sph/, and a chapter of three utterances in 7/70."""
    folder = tmp_path_factory.mktemp("corpora")
    for name in ("sph", "stm", "7/70"):
        (folder / name).mkdir(parents=True)
    silence = np.zeros(SECONDS * 16000)
    soundfile.write(folder / f"sph/{TALK}.sph", silence, 16000, "PCM_16", format="NIST")
    for u in range(3):
        soundfile.write(folder / f"7/70/7-70-000{u}.flac", silence[:1600], 16000)
    return folder


def check_written(utterances, out: Path) -> None:
    """The directory holds the utterances; what it cannot hold is refused by name."""
    try:
        write_data_dir(out, utterances)
    except DataError as error:
        assert str(error).startswith(f"{out}: ")
        return
    tables = {p.name: read_table(p) for p in out.iterdir()}
    assert tables["text"] == {u.utt: u.text for u in utterances}
    assert tables["utt2spk"].keys() == tables["text"].keys()
    assert all(text.split() for text in tables["text"].values())


def read(reader, *arguments):
    """What a reader returns, and what it says on stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        found = reader(*arguments)
    return found, "".join(
        x for x in said.getvalue().splitlines(True) if x.startswith("skipped")
    )


@examples(400)
@given(content=CONTENT)
def test_stm(folder, content):
    (folder / f"stm/{TALK}.stm").write_bytes(content)
    utterances, skipped = read(_read_tedlium_set, folder, 16000, (0.15, 0.1))
    for line in skipped.splitlines():
        assert re.match(rf"skipped {folder}/(stm/{TALK}.stm:\d+|sph/.*\.sph): .", line)
    assert all(0 <= u.begin < u.end <= SECONDS for u in utterances)
    check_written(utterances, folder / "stm_data")


@examples(400)
@given(content=CONTENT)
def test_trans_txt(folder, content):
    (folder / "7/70/7-70.trans.txt").write_bytes(content)
    utterances, skipped = read(_read_set, folder, {}, 16000)
    for line in skipped.splitlines():
        assert re.match(rf"skipped {folder}/7/70/7-70.trans.txt:\d+: .*: .", line)
    check_written(utterances, folder / "trans_data")


@examples(200)
@given(content=CONTENT)
def test_speakers(folder, content):
    (folder / "SPEAKERS.TXT").write_bytes(content.replace(b" ", b"|"))
    assert set(_genders(folder).values()) <= {"m", "f"}


@examples(200)
@given(content=CONTENT)
def test_tables(folder, content):
    (folder / "table").write_bytes(content)
    try:
        table = read_table(folder / "table")
    except DataError as error:
        assert str(error).startswith(f"{folder}/table")
    else:
        # A mark of the byte order, which a file may begin with, would be dropped again.
        if not any(key.startswith("\ufeff") for key in table):
            write_table(folder / "again", table)
            assert read_table(folder / "again") == table


@examples(200)
@given(content=CONTENT, name=st.sampled_from(["wav.scp", "list"]))
def test_lists_of_files(folder, content, name):
    (folder / name).write_bytes(content)
    try:
        found = find_audio(folder / name)
    except AudioError as error:
        assert str(error).startswith(f"input: {folder / name}")
    else:
        assert found and all(utt and path for utt, path in found.items())
        assert not any(re.search(r"\s", utt) for utt in found)


KEYS = (
    "sizes layer_order conv_norm output_size attention_heads linear_units num_blocks "
    "dropout_rate stochastic_depth_rate layer_drop_rate cnn_module_kernel max_pos_emb_len "
    "pos_enc_layer_type selfattention_layer_type normalize_before interctc_layer_idx no_such_key"
).split()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=3)
    | st.sampled_from(["paper", "batch_norm", "abs_pos", "rel_pos", "selfattn", "rel_selfattn"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=1),
    max_leaves=4,
)  # fmt: skip


@examples(300)
@given(conf=st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=2))
def test_values_of_the_encoder(conf):
    """ESPnet's own complaint of a type names the key as well."""
    try:
        make_model(conf)
    except ConfigError as error:
        assert "encoder_conf: " in str(error) or "model_conf: " in str(error)
    except Exception as error:
        assert any(f'argument "{key}"' in str(error) for key in conf), repr(error)
