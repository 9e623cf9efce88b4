"""Tiny models and data that the tests share."""

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import espnet_des  # (registers the plugin)
import espnet_des.nn.backward

DATA = Path(__file__).parent / "data"
TOKENS = ["<blank>", "<unk>", "a", "b", "c", "<space>", "<sos/eos>"]
TINY = {
    "output_size": 8,
    "attention_heads": 2,
    "linear_units": 8,
    "num_blocks": 2,
    "macaron_style": True,
    "cnn_module_kernel": 3,
    "rel_pos_type": "latest",
    "input_layer": "conv2d2",
}

TWO_BRANCHES = {
    "output_size": 8,
    "attention_heads": 2,
    "cgmlp_linear_units": 12,
    "cgmlp_conv_kernel": 3,
    "num_blocks": 2,
    "input_layer": "conv2d2",
}
# Of the other encoders, as small.
TINY_OF = {
    "des_conformer": TINY,
    "des_transformer": {
        key: TINY[key] for key in TINY if key not in ("macaron_style", "cnn_module_kernel",
                                                      "rel_pos_type")
    },
    "des_branchformer": TWO_BRANCHES,
    "des_e_branchformer": TWO_BRANCHES | {
        "use_ffn": True, "macaron_ffn": True, "linear_units": 8, "merge_conv_kernel": 3
    },
    "des_multiconv_conformer": {k: v for k, v in TINY.items() if k != "cnn_module_kernel"} | {
        "cgmlp_linear_units": 16, "multicgmlp_kernel_sizes": "3,5",
        "multicgmlp_merge_conv_kernel": 3,
    },
}  # fmt: skip

# Of properties and fuzzed input: the same examples in every run; or (make test-thorough, with
# HYPOTHESIS_PROFILE=thorough) many times as many, other ones in every run.
# Never by the clock: what a slow machine takes says nothing about the code.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, database=None, **UNTIMED)
settings.register_profile("thorough", print_blob=True, database=None, **UNTIMED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def examples(count: int) -> settings:
    """So many examples of a test; of the profile ``thorough`` twenty times as many."""
    thorough = settings.get_current_profile_name() == "thorough"
    return settings(max_examples=20 * count if thorough else count)


# Before any fixture: sums over threads would differ in the last bit.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the data of a tiny training."""
    from tests.train import make_data

    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@contextlib.contextmanager
def under_ddp():
    """For a while, or a test, every parameter gets a gradient, as in several processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(espnet_des.nn.backward, "is_in_group", lambda: True)
        yield


@pytest.fixture
def upstreams(monkeypatch):
    """A stand-in for s3prl, which no current torchaudio can import."""
    from tests.upstream import modules

    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def reference(name: str):
    """A file of values recorded from the authors' code."""
    return json.loads((DATA / name).read_text())


def make_encoder(encoder="des_conformer", input_size=12, **conf):
    from espnet_des.nn.encoders import SUPERNETS

    return SUPERNETS[encoder](input_size, **(TINY_OF[encoder] | conf))


def without_dropout(model):
    """The model, which now draws nothing in training."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout_rate", None), float):
            module.dropout_rate = 0.0  # ESPnet's CTC
    return model


def transducer_parts(dim, vocabulary):
    """Prediction and joint network of a transducer over an encoder of this dimension."""
    from espnet2.asr.decoder.transducer_decoder import TransducerDecoder
    from espnet2.asr_transducer.joint_network import JointNetwork

    decoder = TransducerDecoder(vocabulary, hidden_size=8)
    return {"decoder": decoder, "joint_network": JointNetwork(vocabulary, dim, 8, 8)}


def make_model(
    encoder_conf=None, schedule=None, decoder=False, transducer=False, postencoder=None,
    **model_conf,
):  # fmt: skip
    """A ``des`` model over features of dimension 12; scheduled if asked for.

    Args:
        decoder: True for one with attention; or a module.
    """
    from espnet2.asr.ctc import CTC
    from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
    from espnet_des.nn.model import DESModel
    from espnet_des.nn.transducer import trainable_transducers

    encoder = make_encoder(**(encoder_conf or {}))
    dim = (postencoder or encoder).output_size()
    # As ESPnet's task inserts them.
    durations = model_conf.get("transducer_multi_blank_durations", [])
    tokens = [f"<blank{n}>" for n in reversed(durations)] + TOKENS
    parts = {"decoder": None, "joint_network": None}
    if decoder:
        is_module = isinstance(decoder, torch.nn.Module)
        parts["decoder"] = decoder if is_module else TransformerDecoder(
            len(TOKENS), dim, attention_heads=2, linear_units=8, num_blocks=1
        )  # fmt: skip
    if transducer:
        parts = transducer_parts(dim, len(tokens))
    with trainable_transducers():
        model = DESModel(
            vocab_size=len(tokens),
            token_list=tokens,
            frontend=None,
            specaug=None,
            normalize=None,
            preencoder=None,
            encoder=encoder,
            postencoder=postencoder,
            ctc=CTC(len(tokens), dim),
            **parts,
            # Without these an update is what the method says, and nothing else.
            **{"ctc_weight": 0.5 if decoder or transducer else 1.0}
            | {"exit_weight": 0.0, "distillation_weight": 0.0}
            | model_conf,
        )
    if schedule is not None:
        model.state.set_schedule(schedule)
    return model


def extracted(model, size, name="des_conformer", **conf):
    """The encoder of one size of a ``des`` model, as it is extracted, in eval mode."""
    from espnet_des.deploy.extract import subnet_state
    from espnet_des.nn.encoders import SUBNETS

    described = model.encoder.described(model.encoder.kept_units(size))
    own = {k: v for k, v in (TINY_OF[name] | conf).items() if k != "sizes"}
    subnet = SUBNETS[f"{name}_subnet"](12, **own, **described)
    subnet.to(next(model.parameters()).dtype).eval()
    prefix, state = "encoder.", subnet_state(model, size)
    subnet.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    return subnet


def check_sum_of_plain_losses(model):
    """The gradients of an update of stage 2, in float64, beside one graph of everything.

    Returns:
        Names of the parameters with a gradient that is not 0.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = make_batch()
    batch["speech"] = batch["speech"].double()
    torch.manual_seed(1)
    model(**batch)[0].backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.manual_seed(1)
    front = model.features(batch["speech"], batch["speech_lengths"])
    lengths, total = front.lengths, 0.0
    for p in model.passes(int(model.state.updates)):
        model.encoder.set_size(p.size)
        out = model.encoder.run_layers(
            front, kept=p.kept, dropped=p.dropped, drop_rate=p.drop_rate,
            blocks=model.encoder.blocks_for(p.size),
        )  # fmt: skip
        total = total + p.weight * model.ctc(
            out, lengths, batch["text"], batch["text_lengths"]
        )
    total.backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-9, atol=1e-10)
    return {
        name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }


def make_batch(rows=3, frames=24, dim=12):
    lengths = torch.tensor([frames - 4 * (i % 2) for i in range(rows)])
    text = torch.tensor([[2, 3, 4, 2], [3, 2, 4, -1], [4, 4, -1, -1]])[:rows]
    return {
        "speech": torch.randn(rows, frames, dim),
        "speech_lengths": lengths,
        "text": text,
        "text_lengths": (text >= 0).sum(1),
    }
