"""What is assumed of ESPnet's models and commands, and of torch's words, one test each."""

import contextlib
import importlib.util
import inspect
import math
import zipfile
from pathlib import Path

import pytest
import torch

from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.legacy.nets.pytorch_backend.transformer import embedding, subsampling
from espnet_des import espnet_api
from espnet_des.deploy.onnx.modules import LogMel, Positions
from espnet_des.nn.encoders import BLOCK_TYPES
from espnet_des.nn.front_end import SUBSAMPLING
from espnet_des.nn.residual import Branch, add_branch
from espnet_des.nn.transducer import trainable_transducers
from espnet_des.recipe import evaluate, jobs, lm, train
from espnet_des.task import STOCK_TASK
from espnet_des.training.checkpoints import WRITER
from tests.conftest import TINY, TINY_OF, TOKENS, make_batch, transducer_parts


def stock_model(frontend=None, **conf):
    """A hybrid model of ESPnet's own, over features of dimension 12."""
    return ESPnetASRModel(
        vocab_size=len(TOKENS), token_list=list(TOKENS), frontend=frontend, specaug=None,
        normalize=None, preencoder=None, encoder=ConformerEncoder(12, **(TINY | conf)),
        postencoder=None, decoder=TransformerDecoder(len(TOKENS), 8, 2, 8, 1),
        ctc=CTC(len(TOKENS), 8), joint_network=None,
    ).eval()  # fmt: skip


def stock_block(**conf):
    return ConformerEncoder(12, **(TINY | conf)).eval().encoders[0]


# ---- the model ---------------------------------------------------------------------


def test_initialize_calls_espnet_initialization_fn():
    from espnet2.torch_utils.initialize import initialize

    class Own(torch.nn.Linear):
        def espnet_initialization_fn(self):
            torch.nn.init.constant_(self.weight, 3.0)

    model = torch.nn.Sequential(Own(2, 2))
    initialize(model, "xavier_uniform")
    assert torch.equal(model[0].weight, torch.full((2, 2), 3.0))


def test_model_encodes_in_this_order():
    model, calls = stock_model().train(), []

    class Step(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x, lengths):
            calls.append(self.name)
            return x, lengths

    names = ["frontend", "specaug", "normalize", "preencoder", "encoder", "postencoder"]
    for name in names:
        if name != "encoder":
            setattr(model, name, Step(name))
    model.encoder.register_forward_pre_hook(lambda *_: calls.append("encoder"))
    batch = make_batch()
    model.encode(batch["speech"], batch["speech_lengths"])
    assert calls == names


def test_model_has_its_parts_by_name():
    from espnet2.asr.espnet_model import autocast_type

    model = stock_model()
    for name in ("frontend", "specaug", "normalize", "preencoder", "encoder", "postencoder",
                 "ctc", "decoder", "error_calculator", "autocast_frontend"):  # fmt: skip
        assert hasattr(model, name), name
    found = model.blank_id, model.sos, model.eos, model.ignore_id, model.ctc_weight
    assert found == (0, 6, 6, -1, 0.5)
    assert autocast_type in (torch.float16, torch.bfloat16)


def test_ctc_is_one_output_layer():
    ctc = CTC(5, 8)
    assert [name for name, _ in ctc.named_parameters()] == ["ctc_lo.weight", "ctc_lo.bias"]
    assert not list(ctc.buffers())

    class Fixed(torch.nn.Module):
        def forward(self, x):
            return torch.arange(5.0).expand(*x.shape[:2], 5)

    ctc.ctc_lo = Fixed()
    x, lengths = torch.randn(1, 4, 8), torch.tensor([4])
    expected = torch.arange(5.0).log_softmax(-1)
    torch.testing.assert_close(ctc.log_softmax(x)[0, 0], expected)
    torch.testing.assert_close(ctc.softmax(x)[0, 0], expected.exp())
    assert ctc.argmax(x).tolist() == [[4] * 4]
    loss = ctc(x, lengths, torch.tensor([[1]]), torch.tensor([1]))
    log_probs = expected.expand(4, 1, 5)
    right = torch.nn.functional.ctc_loss(
        log_probs, torch.tensor([[1]]), lengths, torch.tensor([1]), reduction="sum"
    )
    torch.testing.assert_close(loss, right)


def test_ctc_takes_lengths_of_the_cpu():
    """torch's own loss alone stands behind ctc_type: builtin, which takes them from there."""
    ctc = CTC(5, 8)
    assert ctc.ctc_type == "builtin"
    assert isinstance(ctc.ctc_loss, torch.nn.CTCLoss)
    assert ctc.ctc_loss.zero_infinity
    source = inspect.getsource(CTC.forward) + inspect.getsource(CTC.loss_fn)
    assert "hlens.to(" not in source


def transducer_model(**conf):
    """A stock transducer; its loss is built meanwhile, see nn/transducer.py."""
    vocabulary = 3 + len(TOKENS)
    tokens = ["<blank4>", "<blank3>", "<blank2>", *TOKENS]
    with trainable_transducers():
        return ESPnetASRModel(
            vocab_size=vocabulary, token_list=tokens, frontend=None, specaug=None,
            normalize=None, preencoder=None, encoder=ConformerEncoder(12, **TINY),
            postencoder=None, ctc=CTC(vocabulary, 8), **transducer_parts(8, vocabulary), **conf,
        )  # fmt: skip


def test_transducer_takes_its_loss_by_name():
    taken = {}

    def noted(name):
        def make(**settings):
            taken[name] = settings
            return torch.nn.Identity()

        return make

    durations = {"transducer_multi_blank_durations": [2], "transducer_multi_blank_sigma": 0.1}
    for conf in ({}, durations):
        with espnet_api.own_transducer_losses(noted("rnnt"), noted("multi")):
            ESPnetASRModel(
                vocab_size=7, token_list=list(TOKENS), frontend=None, specaug=None,
                normalize=None, preencoder=None, encoder=None, postencoder=None,
                ctc=CTC(7, 8), **transducer_parts(8, 7), **conf,
            )  # fmt: skip
    if importlib.util.find_spec("warprnnt_pytorch") is None:
        assert taken["rnnt"] == {"blank": 0, "fastemit_lambda": 0.0}
    assert taken["multi"] == {
        "blank": 0, "big_blank_durations": [2], "sigma": 0.1, "reduction": "mean",
        "fastemit_lambda": 0.0,
    }  # fmt: skip


def test_transducer_has_its_parts_by_name():
    model = transducer_model()
    assert model.use_transducer_decoder
    assert model.joint_network is not None
    assert model.error_calculator is None
    calculator = model.error_calculator_trans
    assert (calculator.report_cer, calculator.report_wer) == (True, True)
    quiet = transducer_model(report_cer=False, report_wer=False)
    assert quiet.error_calculator_trans is None
    assert quiet.error_calculator is not None
    quiet = transducer_model(report_cer=False, report_wer=False, ctc_weight=0.0)
    assert quiet.error_calculator is None
    assert quiet.ctc is None
    assert not stock_model().use_transducer_decoder


def test_big_blanks_stand_before_the_blank():
    model = transducer_model(transducer_multi_blank_durations=[2, 3, 4])
    assert model.blank_id == 3
    assert model.transducer_multi_blank_durations == [2, 3, 4]
    assert model.ctc.ctc_loss.blank == 0
    source = inspect.getsource(STOCK_TASK.build_model)
    assert 'token_list.insert(blank_idx, f"<blank{dur}>")' in source
    source = inspect.getsource(importlib.import_module("espnet2.bin.asr_inference"))
    assert "[::-1] + [1]" in source
    assert "asr_model.blank_id - i + 1" in source


def test_error_rates_divide_by_the_words():
    calculator = stock_model().error_calculator
    spaces = torch.full((1, 2), TOKENS.index("<space>"))
    with pytest.raises(ZeroDivisionError):
        calculator(spaces, spaces)
    assert calculator(spaces, spaces, is_ctc=True) is None
    with pytest.raises(ZeroDivisionError):
        transducer_model().error_calculator_trans(torch.zeros(1, 2, 8), spaces + 3)
    words = torch.tensor([[2, 3]])
    assert calculator(words, words) == (0.0, 0.0)


def test_beam_search_keeps_the_ctc():
    from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer

    ctc = CTC(5, 8)
    scorer = CTCPrefixScorer(ctc=ctc, eos=4)
    assert scorer.ctc is ctc
    first = scorer.init_state(torch.zeros(6, 8))[1]
    torch.nn.init.normal_(ctc.ctc_lo.bias, std=3.0)
    assert abs(scorer.init_state(torch.zeros(6, 8))[1] - first).max() > 0
    source = inspect.getsource(importlib.import_module("espnet2.bin.asr_inference"))
    assert "ctc=asr_model.ctc" in source


def test_speech2text_has_its_parts_by_name():
    import espnet2.bin.asr_inference as inference
    from espnet2.legacy.nets.beam_search import Hypothesis

    made = inspect.getsource(inference.Speech2Text.__init__)
    for name in ("asr_model", "tokenizer", "device", "dtype", "multi_asr", "enh_s2t_task"):
        assert f"self.{name} = " in made, name
    source = inspect.getsource(inference.Speech2Text)
    assert 'getattr(self.asr_model, "num_inf", 1)' in source
    assert 'getattr(self.asr_model.enh_model, "num_spk", 1)' in source
    assert "speech" in inspect.signature(inference.Speech2Text.batch_decode).parameters
    assert inference.Speech2Text.from_pretrained
    hypothesis = Hypothesis(yseq=torch.tensor([6, 6]), score=0.0, scores={}, states={})
    assert hypothesis.yseq.tolist() == [6, 6]
    hypothesis = inference.TransHypothesis(0.0, [0], dec_state=None)
    assert (hypothesis.score, hypothesis.yseq) == (0.0, [0])


def test_tokens_become_text_by_two_classes():
    from espnet2.text.build_tokenizer import build_tokenizer
    from espnet2.text.token_id_converter import TokenIDConverter

    tokens = TokenIDConverter(token_list=TOKENS).ids2tokens([2, 5, 3])
    assert tokens == ["a", "<space>", "b"]
    assert build_tokenizer(token_type="char", bpemodel=None).tokens2text(tokens) == "a b"


def test_unpack_names_the_files(tmp_path):
    import yaml

    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.main_funcs.pack_funcs import unpack

    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        meta = {"files": {"asr_model_file": "m.pth"},
                "yaml_files": {"asr_train_config": "config.yaml"}}  # fmt: skip
        archive.writestr("meta.yaml", yaml.safe_dump(meta))
        archive.writestr("m.pth", "")
        archive.writestr("config.yaml", "{}")
    found = unpack(tmp_path / "m.zip", str(tmp_path / "out"))
    assert found.keys() <= inspect.signature(Speech2Text).parameters.keys()
    assert set(found) == {"asr_model_file", "asr_train_config"}
    assert all(Path(path).exists() for path in found.values())


# ---- the Conformer and its front ends ----------------------------------------------


def test_conformer_block_has_its_modules_by_name():
    block = stock_block(concat_after=True)
    conformer = BLOCK_TYPES["conformer"]
    for kind, names in conformer.parts.items():
        assert all(isinstance(getattr(block, name), torch.nn.Module) for name in names)
        assert len(conformer.modules(block, kind)) == 2 + (kind == "mhsa")
    children = {name for name, _ in block.named_children()}
    assert children == {
        *(name for names in conformer.parts.values() for name in names), "norm_final", "dropout",
    }  # fmt: skip
    assert (block.ff_scale, block.stochastic_depth_rate) == (0.5, 0.0)
    plain = stock_block(macaron_style=False, use_cnn_module=False, stochastic_depth_rate=0.25)
    assert plain.feed_forward_macaron is plain.conv_module is None
    assert (plain.ff_scale, plain.stochastic_depth_rate) == (1.0, 0.25)
    assert not hasattr(plain, "norm_final")


@pytest.mark.parametrize("conf", [{}, {"concat_after": True}, {"macaron_style": False}])
def test_conformer_block_adds_its_layers_in_this_order(conf):
    block = stock_block(**conf).double()
    x, pos_emb = torch.randn(2, 6, 8).double(), torch.randn(1, 11, 8).double()
    mask = torch.arange(6)[None, None] < torch.tensor([6, 4])[:, None, None]
    (expected, _), _ = block((x, pos_emb), mask)
    conformer = BLOCK_TYPES["conformer"]
    layers = conformer.layers(torch.nn.ModuleList([block]))
    for layer in layers:
        x = add_branch(x, Branch(conformer, block, layer.kind, x, pos_emb, mask))
    torch.testing.assert_close(block.norm_final(x), expected, rtol=1e-12, atol=1e-12)
    assert len(layers) == len(conformer.parts) - (conf.get("macaron_style") is False)


def stock_encoder(name, **conf):
    kind = BLOCK_TYPES[name]
    return kind.stock(12, **(TINY_OF[f"des_{name}"] | conf)).eval()


def test_transformer_block_has_its_modules_by_name():
    block = stock_encoder("transformer").encoders[0]
    children = {name for name, _ in block.named_children()}
    assert children == {"self_attn", "feed_forward", "norm1", "norm2", "dropout"}


def test_multiconv_block_is_a_conformer_block():
    block = stock_encoder("multiconv_conformer").encoders[0]
    assert type(block) is type(stock_block())
    x, mask = torch.randn(1, 3, 8), torch.tensor([[[True, True, False]]])
    torch.testing.assert_close(
        block.conv_module(x, mask_pad=mask)[:, :1],
        block.conv_module(x.index_fill(1, torch.tensor([2]), 9.0), mask_pad=mask)[:, :1],
    )


@pytest.mark.parametrize("name", ["branchformer", "e_branchformer"])
def test_branches_are_merged_by_one_projection(name):
    """The attention's channels first: without one branch's half, the other's is left."""
    block = stock_encoder(name).encoders[0].double()
    x, pos_emb = torch.randn(2, 6, 8).double(), torch.randn(1, 11, 8).double()
    mask = torch.arange(6)[None, None] < torch.tensor([6, 4])[:, None, None]
    assert block.merge_proj.weight.shape == (8, 16)
    if name == "e_branchformer":
        assert block.depthwise_conv_fusion.groups == 16
    with torch.no_grad():
        block.merge_proj.weight[:, :8] = 0.0
    (found, _), _ = block((x, pos_emb), mask)
    with torch.no_grad():
        for p in block.attn.parameters():
            p.mul_(3.0)  # of no consequence now
    torch.testing.assert_close(block((x, pos_emb), mask)[0][0], found)
    with torch.no_grad():
        block.cgmlp.channel_proj2.weight.mul_(3.0)
    assert not torch.allclose(block((x, pos_emb), mask)[0][0], found)


def test_blocks_are_dropped_by_these_encoders_only():
    batch = torch.randn(1, 40, 12), torch.tensor([40])
    quiet = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    for name in ("transformer", "conformer", "e_branchformer", "multiconv_conformer"):
        encoder = stock_encoder(name, layer_drop_rate=1.0, **quiet)
        whole = encoder(*batch)[0]
        # The containers alone: what is in a block stays as in recognition.
        encoder.training = encoder.encoders.training = True
        drops = not torch.equal(encoder(*batch)[0], whole)
        assert drops == (name in ("e_branchformer", "multiconv_conformer")), name


def test_conformer_has_its_parts_by_name():
    encoder = ConformerEncoder(12, **(TINY | {"input_layer": "linear"}))
    assert isinstance(encoder.embed[-1], embedding.RelPositionalEncoding)
    assert encoder.output_size() == 8
    assert encoder.interctc_layer_idx == []
    assert isinstance(encoder.after_norm, torch.nn.Module)
    again = type(encoder.encoders)(*encoder.encoders)
    assert [*again] == [*encoder.encoders]
    assert again.state_dict().keys() == encoder.encoders.state_dict().keys()


def test_conv_module_has_its_parts_by_name():
    module = stock_block().conv_module
    names = {name for name, _ in module.named_children()}
    assert names == {
        "pointwise_conv1",
        "depthwise_conv",
        "norm",
        "pointwise_conv2",
        "activation",
    }
    assert isinstance(module.norm, torch.nn.BatchNorm1d)
    mask = torch.tensor([[[True, True, False]]])
    x = torch.randn(1, 3, 8)
    assert module.pointwise_conv1.out_channels == 16
    # Padding is hidden from the depthwise convolution.
    torch.testing.assert_close(
        module(x, mask_pad=mask)[:, :1],
        module(x.clone().index_fill_(1, torch.tensor([2]), 9.0), mask_pad=mask)[:, :1],
    )


def test_attention_has_switches():
    attention = stock_block().self_attn
    assert attention.use_sdpa is False
    assert attention.use_flash_attn is False
    assert stock_block(use_sdpa=True).self_attn.use_sdpa is True


def test_short_input_is_refused_by_its_length():
    kinds = {"conv2d": 7, "conv2d1": 5, "conv2d2": 7, "conv2d6": 11, "conv2d8": 15,
             "conv1d1": 5, "conv1d2": 5, "conv1d3": 7}  # fmt: skip
    found = []
    for name, limit in kinds.items():
        encoder = EBranchformerEncoder(20, output_size=8, input_layer=name, num_blocks=1)
        found.append(type(encoder.embed))
        assert subsampling.check_short_utt(encoder.embed, limit - 1) == (True, limit)
        assert subsampling.check_short_utt(encoder.embed, limit)[0] is False
        with pytest.raises(subsampling.TooShortUttError) as error:
            encoder(torch.zeros(1, limit - 1, 20), torch.tensor([limit - 1]))
        assert error.value.limit == limit
    assert set(found) == set(SUBSAMPLING)


def test_subsampling_is_convolutions_and_a_linear_layer():
    for name in ("conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8"):
        embed = ConformerEncoder(20, **(TINY | {"input_layer": name})).eval().embed
        assert isinstance(embed.pos_enc, embedding.RelPositionalEncoding)
        assert {type(m) for m in embed.conv} == {torch.nn.Conv2d, torch.nn.ReLU}
        x = embed.conv(torch.randn(1, 1, 30, 20)).transpose(1, 2).flatten(2)
        assert isinstance(embed.out, torch.nn.Linear)
        assert embed.out(x).shape[-1] == 8


def test_positions_are_these_sinusoids():
    x = torch.randn(1, 5, 8)
    names = ["PositionalEncoding", "ScaledPositionalEncoding", "RelPositionalEncoding",
             "LegacyRelPositionalEncoding"]  # fmt: skip
    for kind in (getattr(embedding, name) for name in names):
        theirs = kind(8, 0.0).eval()
        mine, right = Positions(theirs)(x), theirs(x)
        assert isinstance(mine, tuple) == isinstance(right, tuple)
        torch.testing.assert_close(mine, right)
    assert theirs.xscale == math.sqrt(8)
    assert isinstance(embedding.ConvolutionalPositionalEmbedding, type)


def test_default_frontend_is_stft_and_mel():
    frontend = DefaultFrontend(fs=8000, n_fft=128, win_length=100, hop_length=80, n_mels=12)
    stft = frontend.stft
    assert (stft.n_fft, stft.win_length, stft.hop_length) == (128, 100, 80)
    assert (stft.center, stft.window, stft.normalized) == (True, "hann", False)
    assert frontend.hop_length == 80
    assert not frontend.frontend.use_wpe
    assert not frontend.frontend.use_beamformer
    assert frontend.logmel.melmat.shape == (65, 12)
    speech, lengths = torch.randn(2, 1600), torch.tensor([1600, 1600])
    for mine, right in zip(LogMel(frontend)(speech, lengths), frontend(speech, lengths)):
        torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-3)
    # It mirrors half a window at the ends, which must be there.
    with contextlib.suppress(AssertionError):
        frontend(torch.zeros(1, 65), torch.tensor([65]))
    with pytest.raises(RuntimeError, match="[Pp]adding"):
        frontend(torch.zeros(1, 64), torch.tensor([64]))


# ---- commands ----------------------------------------------------------------------


def test_commands_have_these_names():
    names = ("asr_train", "asr_inference", "aggregate_stats_dirs", "lm_train", "pack",
             "lm_calc_perplexity", "tokenize_text", "launch")  # fmt: skip
    for name in names:
        assert importlib.util.find_spec(f"espnet2.bin.{name}"), name
    source = "".join(map(inspect.getsource, (evaluate, jobs, lm, train)))
    for name in names[:6]:
        assert f'"{name}"' in source


# ---- torch -------------------------------------------------------------------------


def test_torch_says_where_a_state_dict_does_not_fit():
    with pytest.raises(RuntimeError, match="loading state_dict"):
        torch.nn.Linear(2, 2).load_state_dict({})
    with pytest.raises(RuntimeError, match="loading state_dict"):
        torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_torch_says_where_a_file_cannot_be_written():
    with pytest.raises(RuntimeError) as error:
        torch.save({"x": torch.zeros(100000)}, "/dev/full")
    assert WRITER.search(str(error.value))


def test_adamw_is_told_from_adam_by_its_groups():
    found = [
        kind([torch.nn.Parameter(torch.zeros(()))])
        .param_groups[0]
        .get("decoupled_weight_decay")
        for kind in (torch.optim.Adam, torch.optim.AdamW)
    ]
    assert found[0] != found[1]


def test_onnx_nodes_name_their_module(tmp_path):
    from espnet_des.deploy.onnx.graph import quiet

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.frontend, self.out = torch.nn.Linear(2, 3), torch.nn.Linear(3, 4)

        def forward(self, x):
            return self.out(self.frontend(x))

    with quiet():
        program = torch.onnx.export(
            Whole().eval(), (torch.zeros(1, 2),), dynamo=True, verbose=False
        )
    nodes = [n for n in program.model_proto.graph.node if n.op_type in ("Gemm", "MatMul")]
    scopes = [
        p.value for n in nodes for p in n.metadata_props if p.key.endswith("name_scopes")
    ]
    assert ["frontend" in scope for scope in scopes] == [True, False]
