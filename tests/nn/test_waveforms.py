"""Waveforms: each of a batch is mirrored at its own ends."""

import pytest
import torch

from espnet_des.nn.waveforms import mirror_ends


@pytest.mark.parametrize("border", [0, 1, 7])
@pytest.mark.parametrize("channels", [(), (2,)])
def test_each_is_mirrored_at_its_own_ends(border, channels):
    lengths = [30, 29, 23, 8, 16]
    waves = torch.randn(5, 30, *channels, dtype=torch.float64)
    found = mirror_ends(waves, torch.tensor(lengths), border)
    assert found.shape == (5, 30 + 2 * border, *channels)
    for row, wave, n in zip(found, waves, lengths):
        alone = wave[:n].reshape(n, -1).T[None]
        alone = torch.nn.functional.pad(alone, (border, border), mode="reflect")[0].T
        assert torch.equal(row[: n + 2 * border], alone.reshape(-1, *channels))
