"""espnet_api is the only door to what ESPnet and torch do not promise, and each still holds.

A test named after each assumption fails where a release changes it; those of training are
in test_espnet_api_training.py, those of models in test_espnet_api_models.py.
"""

import ast
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

import pytest
import torch

import espnet2.tasks.asr as asr
import espnet_des
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet_des import espnet_api
from tests import test_espnet_api_models as of_models
from tests import test_espnet_api_training as of_training
from tests.conftest import make_batch, make_model
from tests.test_espnet_api_models import stock_model

PACKAGE = Path(espnet_des.__file__).parent
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "espnet_api.py"]
# What Python itself gives NamedTuples and ctypes structures.
MADE_FOR_US = {"_abc_impl", "_backward_cls"}  # by the metaclasses of ABC and autograd.Function
PUBLIC = {"_asdict", "_replace", "_fields", "_make", "_fields_"}
BY_DESIGN = {override.name for override in espnet_api.OVERRIDES}
FUNCTIONS = [
    name
    for name, value in vars(espnet_api).items()
    if getattr(value, "__module__", "") == espnet_api.__name__
    and callable(value) and not isinstance(value, type) and name[0] != "_"
]  # fmt: skip


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def own_names(tree: ast.AST) -> set[str]:
    """Names that a file gives itself: functions, classes, variables, attributes of self."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def foreign_names(tree: ast.AST) -> set[str]:
    """Private names that a file uses and does not give itself."""
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            used |= {part for name in names for part in name.split(".")}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("attr"):
            used |= {a.value for a in node.args[1:2] if isinstance(a, ast.Constant)}
    private = {name for name in used if isinstance(name, str) and is_private(name)}
    return private - own_names(tree) - PUBLIC - BY_DESIGN


# ---- the rules ---------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_private_names_of_others_are_used_in_espnet_api_alone(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert not foreign_names(tree), "reach them through espnet_des/espnet_api.py"
    assert "mock" not in own_imports(tree), "nothing else replaces what is another's"


def own_imports(tree: ast.AST) -> set[str]:
    return {
        alias.name.split(".")[-1]
        for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "torch._foreach_mul_(a, b)",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "import torch._dynamo",
        "self._calc_att_loss(x)",
        "getattr(model, '_extract_feats')",
        "super()._save_to_state_dict(x)",
    ],
)
def test_the_rule_sees_a_private_name(text):
    assert foreign_names(ast.parse(text))


def test_no_class_overrides_a_private_name_of_others_unless_by_design():
    """Not even by chance: ours would be called in place of theirs."""
    found = set()
    for info in pkgutil.walk_packages(espnet_des.__path__, "espnet_des."):
        if info.name.rsplit(".", 1)[-1] in ("__main__", "espeak") or ".bin." in info.name:
            continue
        module = importlib.import_module(info.name)
        for kind in vars(module).values():
            if not isinstance(kind, type) or not kind.__module__.startswith("espnet_des"):
                continue
            theirs = [b for b in kind.__mro__ if b.__module__.startswith(("torch", "espnet2"))]
            private = {n for n in vars(kind) if is_private(n)} - MADE_FOR_US
            found |= {n for n in private if any(n in vars(base) for base in theirs)}
    assert found == BY_DESIGN


def test_everything_has_its_test_and_its_reason():
    own = {*globals(), *vars(of_models), *vars(of_training)}
    for name, reason in espnet_api.ASSUMPTIONS + espnet_api.OVERRIDES:
        assert f"test_{name.lstrip('_')}" in own, name
        assert len(reason.split()) > 4
    for name in FUNCTIONS:
        assert f"test_{name}" in own, name
        assert getattr(espnet_api, name).__doc__
    names = [a.name for a in espnet_api.ASSUMPTIONS]
    assert len(set(names)) == len(names)


def test_it_costs_no_import():
    import subprocess

    code = (
        "import sys, espnet_des.espnet_api; "
        "sys.exit(str([m for m in ('torch', 'espnet2', 'numpy') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


# ---- the functions -----------------------------------------------------------------


def test_epoch_file(tmp_path):
    """The average looks for it: see also test_average_sums_integers."""
    assert espnet_api.epoch_file(12) == "12epoch.pth"


def test_read_tokens(tmp_path):
    """What ESPnet writes into config.yaml where ``token_list`` is a file."""
    file = tmp_path / "tokens.txt"
    file.write_text("<blank>\n<unk>\nA \n\u3000\nB\u2028\n<sos/eos>\n", encoding="utf-8")
    parser = asr.ASRTask.get_parser()
    words = "--input_size 12 --encoder transformer --encoder_conf num_blocks=1 --output_dir x"
    args = parser.parse_args(f"{words} --model_conf ctc_weight=1.0".split())
    args.token_list = str(file)
    asr.ASRTask.build_model(args)
    assert args.token_list == espnet_api.read_tokens(file)
    assert args.token_list[2:5] == ["A", "", "B"]


def test_without_exits():
    batch = make_batch()
    features, lengths = batch["speech"], batch["speech_lengths"]
    plain = stock_model()
    with_exits = stock_model(interctc_layer_idx=[1])
    with_exits.load_state_dict(plain.state_dict())
    encoded, _ = with_exits.encode(features.clone(), lengths)
    assert isinstance(encoded, tuple)
    out, _ = plain.encode(features.clone(), lengths)
    assert torch.equal(espnet_api.without_exits(encoded), out)
    assert espnet_api.without_exits(out) is out


def test_extract_features():
    frontend = DefaultFrontend(fs=8000, n_fft=128, hop_length=80, n_mels=12)
    speech, lengths = torch.randn(2, 1600), torch.tensor([1600, 1000])
    model = stock_model(frontend)
    for mine, theirs in zip(
        espnet_api.extract_features(model, speech, lengths), frontend(speech, lengths)
    ):
        assert torch.equal(mine, theirs)
    features = make_batch()
    found = espnet_api.extract_features(
        stock_model(), features["speech"], features["speech_lengths"]
    )
    assert torch.equal(found[0], features["speech"])


def test_attention_loss():
    model, batch = stock_model(), make_batch()
    encoded, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    text, text_lengths = batch["text"], batch["text_lengths"]
    before = text_lengths.clone()
    found = espnet_api.attention_loss(model, encoded, lengths, text, text_lengths)
    stats = model(**batch)[1]
    assert found.loss == stats["loss_att"]
    assert found.accuracy == stats["acc"]
    assert (found.cer, found.wer) == (stats["cer"], stats["wer"])
    assert found.cer is not None
    model.lang_token_id = torch.tensor([[2]])
    espnet_api.attention_loss(model, encoded, lengths, text, text_lengths)
    assert torch.equal(text_lengths, before)
    found = espnet_api.attention_loss(model.train(), encoded, lengths, text, text_lengths)
    assert found.cer is None


def test_transducer_loss():
    model, batch = make_model(transducer=True, ctc_weight=0.3).eval(), make_batch()
    model.set_size(8)
    encoded, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    found = espnet_api.transducer_loss(model, encoded, lengths, batch["text"])
    stats = ESPnetASRModel.forward(model, **batch)[1]
    assert found.loss == stats["loss_transducer"]
    assert found.cer == stats["cer_transducer"].item()
    assert found.wer == stats["wer_transducer"].item()
    # Longer than any utterance, or of an utterance without a frame, ESPnet's losses stop.
    longer = torch.nn.functional.pad(encoded, [0, 0, 0, 3])
    assert espnet_api.transducer_loss(model, longer, lengths, batch["text"]).loss == found.loss
    none = lengths * torch.tensor([1, 0, 1])
    assert espnet_api.transducer_loss(model, encoded, none, batch["text"]).loss.isfinite()


def test_own_transducer_losses():
    from espnet2.asr.transducer.rnnt_multi_blank import rnnt_multi_blank as stock

    class One:
        pass

    class Two:
        pass

    before = stock.MultiblankRNNTLossNumba
    is_installed = importlib.util.find_spec("warprnnt_pytorch") is not None
    with espnet_api.own_transducer_losses(One, Two):
        import warprnnt_pytorch

        assert stock.MultiblankRNNTLossNumba is Two
        assert is_installed or warprnnt_pytorch.RNNTLoss is One
        with espnet_api.own_transducer_losses(Two, One):  # within another the first remains
            assert sys.modules["warprnnt_pytorch"] is warprnnt_pytorch
    assert stock.MultiblankRNNTLossNumba is before
    assert is_installed or "warprnnt_pytorch" not in sys.modules


def test_leave_to_the_ranks(tmp_path):
    """DDP neither changes what is left to the ranks, nor says that it is no tensor of its."""
    model = torch.nn.BatchNorm1d(2)
    espnet_api.leave_to_the_ranks(model, ["running_mean"])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        ddp = torch.nn.parallel.DistributedDataParallel(model)
        assert ddp.parameters_to_ignore == {"running_mean"}
        assert "running_mean" not in ddp.named_module_buffers
        assert "running_var" in ddp.named_module_buffers
    finally:
        torch.distributed.destroy_process_group()


def test_was_left_out():
    """What AMP's GradScaler sets while a fused optimizer, which it always calls, steps."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight], fused=True)
    told = []
    optimizer.register_step_post_hook(
        lambda *_: told.append(espnet_api.was_left_out(optimizer))
    )
    for value in (1.0, float("inf")):
        scaler = torch.amp.GradScaler("cpu")
        weight.grad = torch.full((2,), value)
        scaler.scale(torch.zeros(()))
        scaler.step(optimizer)
        scaler.update()
    assert told == [False, True]
    assert not espnet_api.was_left_out(optimizer)
    assert not espnet_api.was_left_out(torch.optim.SGD([weight]))


def test_cpu_flash_attention():
    """It is what attention on the CPU calls, and torch's own table still lacks it."""
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    q = torch.randn(1, 2, 8, 4)
    seen = []
    mapping = {espnet_api.cpu_flash_attention(): lambda *a, **k: seen.append(1) or 1}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert seen
    assert espnet_api.cpu_flash_attention() not in flop_registry


def test_shallow_copy():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3))
    copied = espnet_api.shallow_copy(module)
    assert copied is not module and copied[0] is module[0]
    assert [id(p) for p in copied.parameters()] == [id(p) for p in module.parameters()]


def test_put_parameter():
    module = torch.nn.Linear(2, 3)
    copied, weight = espnet_api.shallow_copy(module), torch.zeros(1, 2, requires_grad=True)
    espnet_api.put_parameter(copied, "weight", 2 * weight)
    espnet_api.put_parameter(copied, "bias", None)
    copied(torch.ones(2)).sum().backward()
    assert weight.grad.tolist() == [[2.0, 2.0]]
    assert module.weight.shape == (3, 2) and module.bias is not None


def test_put_module():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3))
    copied, other = espnet_api.shallow_copy(module), torch.nn.Linear(2, 1)
    espnet_api.put_module(copied, "0", other)
    assert copied[0] is other and module[0] is not other
    assert copied(torch.ones(2)).shape == (1,)


def test_multiply_all():
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor(3.0)]
    espnet_api.multiply_all(tensors, torch.tensor(2.0))
    assert [t.tolist() for t in tensors] == [[2.0, 4.0], 6.0]


def test_add_to_all():
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor(3.0)]
    espnet_api.add_to_all(tensors, [torch.tensor([1.0, 1.0]), torch.tensor(2.0)])
    assert [t.tolist() for t in tensors] == [[2.0, 3.0], 5.0]


# ---- the overrides -----------------------------------------------------------------


def test_load_from_state_dict():
    """The selection of another model is refused, strict or not, and nothing of it is loaded."""
    model, other = make_model(), make_model({"sizes": [2, 4, 8]})
    other.state.updates.fill_(3.0)
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="sizes: the checkpoint has"):
            model.state.load_state_dict(other.state.state_dict(), strict)
    assert model.state.updates == 0


def test_apply():
    model = make_model()
    model.half()
    model.to("meta")
    kinds = {(buffer.dtype, buffer.device.type) for buffer in model.state.buffers()}
    assert kinds == {(torch.float64, "cpu")}
    assert model.encoder.scores.device.type == "meta"
