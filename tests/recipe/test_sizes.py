"""The table of sizes, as files."""

import json
from pathlib import Path

import pytest

from espnet_des.recipe.sizes import write_sizes

KINDS = ["ff_macaron", "mhsa", "conv", "ff"]


def row(size):
    return {"size": size, "kept_layers": list(range(size)), "num_params": 1000 * size,
            "wer": {"test": 10.0 / size}, "macs_per_second": 1e6 * size,
            "rtf_1_thread": 0.01 * size}  # fmt: skip


def write(folders):
    write_sizes(folders, [row(2), row(4)], KINDS, "simple_top_k, model.pth", 0.1)


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, capsys):
    write([tmp_path])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(before) == {"sizes.md", "sizes.json"}
    assert [r["size"] for r in json.loads(before["sizes.json"])] == [2, 4]
    assert before["sizes.md"].decode() in capsys.readouterr().out
    write_text = Path.write_text

    def full_disk(self, text, *args, **kwargs):
        write_text(self, text[: len(text) // 2], *args, **kwargs)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        write([tmp_path])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
