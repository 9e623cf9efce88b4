"""ONNX: what is exported is the supernet at that size, at every length and in any batch."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet_des.deploy.onnx.graph import CTCGraph, export, run, session
from espnet_des.nn.waveforms import shortest_input
from tests.conftest import TINY_OF, examples
from tests.deploy.test_onnx import assert_equal
from tests.properties.strategies import (
    DIM,
    FRONT_ENDS,
    Batch,
    batches,
    log_probs,
    supernets,
)
from tests.properties.test_outputs import extracted

pytestmark = pytest.mark.fuzzed


def draw_size(data, **more):
    """A supernet set to one of its sizes, and what is exported of that."""
    supernet = data.draw(supernets(**more))
    supernet.model.normalize = data.draw(st.sampled_from([None, UtteranceMVN()]))
    size = data.draw(st.sampled_from(supernet.sizes[::-1]), label="size")
    supernet.model.set_size(size)
    return supernet, CTCGraph(copy.deepcopy(extracted(supernet, size)), "features")


@examples(30)
@given(st.data())
def test_the_exported_form_is_the_supernet_at_that_size(data):
    supernet, graph = draw_size(data)
    for _ in range(2):
        batch = data.draw(batches(supernet.conf))
        with torch.no_grad():
            found = graph(*batch)
        assert_equal(found, log_probs(supernet.model, batch))


# Few: an export takes seconds.
@pytest.mark.parametrize("encoder", TINY_OF)
@examples(1)
@given(data=st.data())
def test_the_file_is_the_supernet_at_that_size(encoder, data):
    supernet, graph = draw_size(data, max_blocks=2, encoders=(encoder,))
    shortest = shortest_input(supernet.model, "features")
    assert shortest == FRONT_ENDS[supernet.conf["input_layer"]]
    alone = Batch(torch.randn(1, shortest, DIM), torch.tensor([shortest]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "size.onnx"
        export(graph, file, {})
        loaded = session(file, threads=1)
    drawn = [data.draw(batches(supernet.conf, max_frames=300)) for _ in range(6)]
    for batch in [alone, *drawn]:
        assert_equal(run(loaded, *batch), log_probs(supernet.model, batch), atol=1e-4)
