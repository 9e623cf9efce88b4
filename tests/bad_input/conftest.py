"""Tiny trained models that the tables of bad input share."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from espnet_des.deploy.extract import extract_subnet
from tests.train import let_it_talk, make_data, train_here


class Trained(NamedTuple):
    """Where a model is.

    Attributes:
        config: its ``config.yaml``.
        file: its parameters.
    """

    config: Path
    file: Path


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Six good utterances for training."""
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, 6)
    return folder


def train(data: Path, folder: Path, **changes) -> Trained:
    exp = train_here(data, folder, **{"max_epoch": 3, "accum_grad": 1} | changes)
    return Trained(exp / "config.yaml", exp / "3epoch.pth")


@pytest.fixture(scope="session")
def supernet(data, tmp_path_factory):
    """Sizes 3, 5 and 8; with random output layers, so that it says something."""
    trained = train(data, tmp_path_factory.mktemp("supernet"), normalize="utterance_mvn")
    torch.manual_seed(0)
    let_it_talk(*trained)
    return trained


@pytest.fixture(scope="session")
def part(supernet, tmp_path_factory):
    """The size 3 of it, extracted."""
    folder = tmp_path_factory.mktemp("part")
    file = extract_subnet(*supernet, 3, folder)
    return Trained(folder / "config.yaml", file)


@pytest.fixture(scope="session")
def stock(data, tmp_path_factory):
    """ESPnet's own Conformer."""
    return train(
        data, tmp_path_factory.mktemp("stock"), encoder="conformer",
        encoder_conf__sizes=None, model="espnet", model_conf={"ctc_weight": 1.0},
    )  # fmt: skip


@pytest.fixture(scope="session")
def wider(data, tmp_path_factory):
    """A supernet of the same sizes with more channels."""
    return train(data, tmp_path_factory.mktemp("wider"), encoder_conf__output_size=16)


@pytest.fixture(scope="session")
def other_sizes(data, tmp_path_factory):
    """A supernet of sizes 4 and 8."""
    return train(data, tmp_path_factory.mktemp("sizes"), encoder_conf__sizes=[4, 8])
