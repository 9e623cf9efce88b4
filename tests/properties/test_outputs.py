"""Outputs in evaluation: one size is one model in every form, alone and in any batch."""

import argparse

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet2.asr.ctc import CTC
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet_des.deploy.extract import subnet_config, subnet_state
from espnet_des.inference.best_path import BestPathDecoder
from espnet_des.nn.encoders import SUBNETS
from espnet_des.nn.waveforms import shortest_input
from tests.conftest import TINY_OF, TOKENS, examples, make_model
from tests.deploy.test_onnx import assert_equal
from tests.properties.strategies import (
    DIM,
    FRONT_ENDS,
    OLD_POSITIONS,
    POSITIONS,
    SEEDS,
    Batch,
    Supernet,
    batches,
    log_probs,
    randomise,
    supernets,
    texts,
)

pytestmark = pytest.mark.fuzzed


def extracted(supernet: Supernet, size: int) -> ESPnetASRModel:
    """One size as extract_subnet writes it, and as ESPnet builds and loads it."""
    name = supernet.conf["encoder"]
    conf = TINY_OF[name] | {k: v for k, v in supernet.conf.items() if k != "encoder"}
    whole = {"encoder": name, "encoder_conf": conf, "model_conf": {"ctc_weight": 1.0}}
    config = subnet_config(whole, supernet.model, size)
    encoder = SUBNETS[config["encoder"]](**config["encoder_conf"])
    part = ESPnetASRModel(
        vocab_size=len(TOKENS), token_list=list(TOKENS), frontend=None, specaug=None,
        normalize=supernet.model.normalize, preencoder=None, encoder=encoder, postencoder=None,
        decoder=None, ctc=CTC(len(TOKENS), encoder.output_size()), joint_network=None,
        **config["model_conf"],
    )  # fmt: skip
    part.to(supernet.model.encoder.scores.dtype)
    part.load_state_dict(subnet_state(supernet.model, size))
    return part.eval()


@torch.no_grad()
def masked(supernet: Supernet, size: int, batch: Batch, closed=()):
    """All layers with gates of 0 and 1, and the output layer of the size."""
    model, encoder = supernet.model, supernet.model.encoder
    gates = torch.zeros(encoder.num_layers)
    gates[encoder.kept_layers(size)] = 1.0
    front = model.features(batch.feats.clone(), batch.lengths)
    out = encoder.run_layers(
        front, gates=gates, closed=closed, blocks=encoder.blocks_for(size)
    )
    lengths = encoder.output_lengths(front.lengths)
    return model.ctc.ctc_lo.of_size(size)(out).log_softmax(-1), lengths


@examples(30)
@given(st.data())
def test_a_size_is_the_masked_supernet_and_the_extracted_model(data):
    supernet = data.draw(supernets(positions=[*POSITIONS, OLD_POSITIONS]))
    model, encoder = supernet.model, supernet.model.encoder
    batch = data.draw(batches(supernet.conf))
    # In float64: a branch's half of a projection is added up in another order than a copy of it.
    model.double()
    batch = batch._replace(feats=batch.feats.double())
    for size in supernet.sizes:
        model.set_size(size)
        found, lengths = log_probs(model, batch)
        part = extracted(supernet, size)
        same, same_lengths = log_probs(part, batch)
        torch.testing.assert_close(same, found, atol=1e-10, rtol=0)
        assert torch.equal(lengths, same_lengths)
        assert part.encoder.num_layers == size
        numbers = [p.numel() for p in part.encoder.parameters()]
        assert sum(numbers) == encoder.count_parameters(size)
        part.encode(batch.feats.clone(), batch.lengths)[0].sum().backward()
        assert all(p.grad is not None for p in part.encoder.parameters())  # all are of use
        assert_equal(masked(supernet, size, batch), (found, lengths))
        # As stage 1 runs it: what is behind a gate of 0 is without a graph.
        closed = set(range(encoder.num_layers)) - set(encoder.kept_layers(size))
        assert_equal(masked(supernet, size, batch, closed), (found, lengths))


@examples(30)
@given(st.data())
def test_padding_and_company_do_not_change_what_an_utterance_gives(data):
    supernet = data.draw(supernets())
    model = supernet.model
    model.normalize = data.draw(st.sampled_from([None, UtteranceMVN()]))
    batch = data.draw(batches(supernet.conf))
    more = data.draw(st.integers(0, 40), label="frames of padding")
    longer = batch.padded(batch.feats.size(1) + more)
    for size in supernet.sizes:
        model.set_size(size)
        together, lengths = log_probs(model, batch)
        # ESPnet cuts a batch to its longest utterance; the encoder takes any.
        if model.normalize is None:
            with torch.no_grad():
                out, _, _ = model.encoder(*longer)
            assert_equal((model.ctc.log_softmax(out).detach(), lengths), (together, lengths))
        for i in range(len(lengths)):
            row = together[i : i + 1], lengths[i : i + 1]
            assert_equal(row, log_probs(model, batch.row(i)))


@examples(30)
@given(st.data())
def test_the_order_of_a_batch_does_not_matter(data):
    supernet = data.draw(supernets(positions=[*POSITIONS, OLD_POSITIONS]))
    model = supernet.model
    batch = data.draw(batches(supernet.conf))
    rows = len(batch.lengths)
    text, text_lengths = data.draw(texts(rows))
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    other = Batch(batch.feats[order], batch.lengths[order])
    for size in supernet.sizes:
        model.set_size(size)
        found, lengths = log_probs(model, batch)
        assert_equal(log_probs(model, other), (found[order], lengths[order]))
    with torch.no_grad():
        loss, stats, _ = model(*batch, text, text_lengths)
        loss2, stats2, _ = model(*other, text[order], text_lengths[order])
    torch.testing.assert_close(loss2, loss, atol=1e-4, rtol=1e-4)
    assert stats.keys() == stats2.keys()
    for key in stats:
        torch.testing.assert_close(stats2[key], stats[key], atol=1e-4, rtol=1e-4,
                                   equal_nan=True, msg=key)  # fmt: skip


@examples(20)
@given(supernets(), SEEDS)
def test_a_size_gives_the_same_whatever_was_run_before(supernet, seed):
    model = supernet.model
    torch.manual_seed(seed)
    batch = Batch(torch.randn(2, 30, DIM), torch.tensor([30, 21]))
    text = torch.tensor([[2, 3], [4, -1]]), torch.tensor([2, 1])
    random, found = torch.get_rng_state(), {}
    for size in [*supernet.sizes, *reversed(supernet.sizes), supernet.sizes[0]]:
        model.set_size(size)
        for _ in range(2):
            log_prob, _ = log_probs(model, batch)
            assert torch.equal(found.setdefault(size, log_prob), log_prob)
            with torch.no_grad():
                model(*batch, *text)  # the losses of all sizes
    assert torch.equal(torch.get_rng_state(), random)  # nothing is drawn


@examples(20)
@given(supernets(max_blocks=1), st.integers(1, 24), SEEDS)
def test_the_shortest_input_is_the_one_that_gives_a_frame(supernet, frames, seed):
    model = supernet.model
    shortest = shortest_input(model, "features")
    assert shortest == FRONT_ENDS[supernet.conf["input_layer"]]
    torch.manual_seed(seed)
    batch = Batch(torch.randn(1, frames, DIM), torch.tensor([frames]))
    try:
        _, lengths = log_probs(model, batch)
    except TooShortUttError:
        assert frames < shortest
    else:
        assert frames >= shortest and lengths >= 1


def speaking(model, seed: int) -> BestPathDecoder:
    """Decodes waveforms, and is sure of what it says."""
    model.frontend = DefaultFrontend(fs=8000, n_fft=128, hop_length=40, n_mels=DIM)
    args = argparse.Namespace(
        input_size=None, frontend_conf={"fs": 8000}, token_list=list(TOKENS),
        token_type="char", bpemodel=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    with torch.no_grad():
        for head in (model.ctc.ctc_lo, *model.ctc.ctc_lo.heads.values()):
            head.weight.normal_(std=30.0)
    return BestPathDecoder(model, args)


@examples(20)
@given(st.data())
def test_waveforms_decode_to_the_same_tokens_alone_and_in_any_batch(data):
    """With a front end that mirrors the ends of what it gets, padding or not."""
    supernet = data.draw(supernets(max_blocks=1, positions=[*POSITIONS, OLD_POSITIONS]))
    model = supernet.model
    decoder = speaking(model, data.draw(SEEDS))
    samples = st.integers(0, 300) | st.integers(0, 2500)
    waves = [torch.randn(n) for n in data.draw(st.lists(samples, min_size=2, max_size=4))]
    model.set_size(data.draw(st.sampled_from(supernet.sizes)))
    alone = [decoder.runs([wave])[0] for wave in waves]
    for one, other in zip(alone, decoder.runs(waves)):
        assert [run[:3] for run in one] == [run[:3] for run in other]


def test_where_positions_depend_on_padding_each_is_decoded_alone():
    """ESPnet's default positions do."""
    torch.manual_seed(0)
    model = make_model({"input_size": DIM, "sizes": [1, 8]} | OLD_POSITIONS).eval()
    randomise(model)
    decoder = speaking(model, 1)
    waves = [torch.randn(n) for n in (2000, 4000, 3000)]
    assert decoder.runs(waves) == [decoder.runs([wave])[0] for wave in waves]
