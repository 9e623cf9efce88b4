"""Costs of all sizes, counted at once: those of the models that are extracted."""

import pytest
import torch

from espnet_des.deploy.extract import config_with, state_with, subnet_state
from espnet_des.nn.costs import parameters_of_sizes
from espnet_des.nn.encoders import SUBNETS
from espnet_des.nn.layered import num_parameters
from espnet_des.nn.macs import count_macs, count_macs_of_layers
from tests.conftest import TINY_OF, TOKENS, make_model

CONFS = [
    {},
    {"use_cnn_module": False},
    {"input_layer": "vgg", "concat_after": True},
    {"input_layer": "dw_striding", "subsampling_channels": 6, "subsampling_factor": 8},
    {"input_layer": "conv2d", "subsampling_channels": 5, "upsampling_factor": 2},
    {"rel_pos_type": "legacy"},
    {"encoder": "des_e_branchformer"},
    {"encoder": "des_branchformer"},
    {"encoder": "des_transformer"},
    {"encoder": "des_multiconv_conformer"},
    {"encoder": "des_transformer", "use_sdpa": True},
    {"granularity": "component"},
    {"encoder": "des_e_branchformer", "granularity": "component"},
]


def frozen(conf, **more):
    """A supernet of all sizes, whose layers were chosen at random."""
    model = make_model({"sizes": "any", "smallest_size": 1} | conf, **more)
    model.state.freeze(torch.randperm(model.encoder.num_units))
    return model.eval()


def part_of(model, conf, size):
    """The model that is extracted, as far as the encoder and the output layer go."""
    from espnet2.asr.ctc import CTC
    from espnet2.asr.espnet_model import ESPnetASRModel

    name = conf.get("encoder", "des_conformer")
    own = {key: value for key, value in conf.items() if key not in ("encoder", "granularity")}
    kept = model.encoder.described(model.encoder.kept_units(size))
    encoder = SUBNETS[f"{name}_subnet"](12, **kept, **(TINY_OF[name] | own))
    absent = ("frontend", "specaug", "normalize", "preencoder", "postencoder", "decoder",
              "joint_network")  # fmt: skip
    part = ESPnetASRModel(
        vocab_size=len(TOKENS), token_list=list(TOKENS), encoder=encoder,
        ctc=CTC(len(TOKENS), encoder.output_size()), ctc_weight=1.0,
        **dict.fromkeys(absent),
    )  # fmt: skip
    part.load_state_dict(subnet_state(model, size))
    return part.eval()


@pytest.mark.parametrize("conf", CONFS, ids=str)
def test_every_size_costs_what_its_extracted_model_does(conf):
    model, speech = frozen(conf), torch.randn(1, 51, 12)
    macs, params = count_macs_of_layers(model, speech), parameters_of_sizes(model)
    assert list(params) == model.encoder.all_sizes
    for size in model.encoder.all_sizes:
        part = part_of(model, conf, size)
        kept = model.encoder.parts_of(set(model.encoder.kept_units(size)))
        assert macs.of(kept) == count_macs(part, speech).total
        assert params[size] == sum(p.numel() for p in part.parameters())
        model.set_size(size)
        assert count_macs(model, speech) == count_macs(part, speech)


def test_the_count_leaves_the_size_and_random_numbers_alone():
    model, speech = frozen({}), torch.randn(1, 51, 12)
    model.set_size(3)
    before = torch.get_rng_state()
    macs = count_macs_of_layers(model, speech)
    assert model.encoder.size == 3 and torch.equal(before, torch.get_rng_state())
    assert len(macs.layers) == 8 and min(macs.layers).each > 0


@pytest.mark.parametrize("more", [{"decoder": True}, {"shared_output": True}], ids=str)
def test_parameters_are_all_that_a_size_has(more):
    model = frozen({}, **more)
    buffers = {name for name, _ in model.named_buffers()}
    for size, count in parameters_of_sizes(model).items():
        state = subnet_state(model, size)
        assert count == sum(v.numel() for k, v in state.items() if k not in buffers)


def test_any_layers_can_be_taken_out():
    model = frozen({})
    state = state_with(model, [1, 6], 8)
    config = {"encoder": "des_conformer", "encoder_conf": {"sizes": "any"}, "model_conf": {}}
    assert config_with(config, model, [1, 6])["encoder_conf"] == {"kept_layers": [1, 6]}
    subnet = SUBNETS["des_conformer_subnet"](
        12, kept_layers=[1, 6], **TINY_OF["des_conformer"]
    )
    subnet.load_state_dict(
        {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    )


@pytest.mark.parametrize("name", TINY_OF)
def test_a_layer_has_the_parameters_that_go_with_it(name):
    encoder = make_model({"encoder": name}).encoder
    whole = num_parameters(encoder.encoders)
    for q, count in enumerate(encoder.parameters_of_layers()):
        rest = [other for other in range(encoder.num_layers) if other != q]
        assert whole - num_parameters(encoder.blocks_with(rest, encoder.num_layers)) == count
