"""How often an update waits for the device, counted without one.

Tensors of a device that is not there: they hold their values on the CPU, but say
that they are elsewhere, and every operation between the two is seen. What Python
would wait for is counted with the line that asked for it. Not seen is what a kernel
does by itself: torch's CTC loss copies its lengths to a GPU in every call.
"""

import contextlib
import sys
from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import espnet_des.nn.model
from espnet_des.method.selection import IterativeZeroOut, Schedule, SimpleTopK
from espnet_des.nn.dropout import QuickDropout
from tests.conftest import make_batch, make_model

aten = torch.ops.aten
# Python, and torch's choice of kernels, treat this device like any other.
DEVICE = torch.device("meta")
# These give as many elements as the values say.
OF_VALUES = (aten.nonzero, aten.masked_select, aten._unique2, aten.unique_consecutive)
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class OnDevice(torch.Tensor):
    """A tensor of the device; ``held`` has its values."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=DEVICE,
        )  # fmt: skip

    def __init__(self, held: torch.Tensor):
        self.held = held

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        # Outside of the mode, where nothing is counted: a module's parameters are made.
        return run(func, args, kwargs or {}, Counter())


def run(func, args, kwargs, waits: Counter):
    """Run an operation of the device on the CPU, and count if it waits."""
    leaves = tree_leaves((args, kwargs))
    there = [x for x in leaves if isinstance(x, OnDevice)]
    here = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, OnDevice)]
    packet, device = func.overloadpacket, kwargs.get("device")
    makes = device is not None and torch.device(device) == DEVICE
    if not there and not makes:
        return func(*args, **kwargs)
    leaves_device = device is not None and not makes
    moves = packet in (aten._to_copy, aten.copy_)
    waits_here = (
        packet in (aten._local_scalar_dense, aten.equal, *OF_VALUES)
        or (moves and leaves_device)
        # From memory that is not pinned: torch waits, unless told not to.
        or (moves and here and not kwargs.get("non_blocking", len(args) > 2 and args[2]))
    )
    if packet in INDEXING:
        indices = [x for x in args[1] if x is not None]
        waits_here = any(x.dtype == torch.bool or not isinstance(x, OnDevice) for x in indices)
    elif packet is aten._ctc_loss:
        waits_here = any(isinstance(x, OnDevice) for x in args[2:4])
    elif not moves and packet is not aten._ctc_loss_backward:
        # As on a GPU: only numbers may come from the CPU.
        assert all(x.dim() == 0 for x in here), f"{func} of tensors on two devices"
    if waits_here:
        waits[asked_by()] += 1
    if makes or leaves_device:
        kwargs = kwargs | {"device": "cpu"}
    held_args, held_kwargs = tree_map(
        lambda x: x.held if isinstance(x, OnDevice) else x, (args, kwargs)
    )
    out = func(*held_args, **held_kwargs)
    if func._schema.is_mutable:
        return None if out is None else args[0]
    if leaves_device:
        return out.clone() if moves else out
    return tree_map(lambda x: OnDevice(x) if isinstance(x, torch.Tensor) else x, out)


def asked_by() -> str:
    """The line of the project, or else of ESPnet, that is running."""
    frame = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        # The folder that the project is in may have its name, and hold the environment.
        at = max(name.rfind(f"/{package}/") for package in ("espnet_des", "espnet2"))
        if at >= 0 and not {"tests", "site-packages"} & set(name[at:].split("/")):
            return f"{name[at + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class CountWaits(TorchDispatchMode):
    """Counts in ``waits`` what would wait for the device, by line."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, self.waits)


class CopyNumbers(TorchFunctionMode):
    """``torch.tensor(numbers, device=...)`` is a copy; torch hides it from the other mode."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            return func(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


def move(module: torch.nn.Module) -> None:
    """What ``module.to(device)`` does, but for what stays on the CPU."""
    for part in module.modules():
        if type(part).__name__ == "SelectionState":
            continue
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = torch.nn.Parameter(OnDevice(p.detach()))
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = OnDevice(b)


def count_waits(model, batch, monkeypatch) -> Counter:
    """Lines at which the second update of the model waits, and how often."""
    # torch.autocast does not know the device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    move(model.train())
    batch = {key: OnDevice(value) for key, value in batch.items()}
    with CountWaits() as counted, CopyNumbers():
        for _ in range(2):
            counted.waits.clear()  # ESPnet moves its table of positions in the first one
            loss, stats, weight = model(**batch)
            loss.backward()
            model.before_step()
            model.after_step()
    assert all(isinstance(x, OnDevice) for x in (loss, weight, *stats.values()))
    return counted.waits


def test_the_counter_sees_what_waits():
    x, n = OnDevice(torch.arange(3.0)), OnDevice(torch.tensor(2))

    def waits(ask):
        with CountWaits() as counted, CopyNumbers():
            ask()
        return sum(counted.waits.values())

    for ask in (
        x.cpu, x.tolist, n.item, lambda: bool(n), lambda: x[:n], lambda: x[x > 1],
        lambda: x.nonzero(), lambda: torch.zeros(3).to(DEVICE), lambda: x.equal(x),
        lambda: torch.tensor([1.0], device=DEVICE), lambda: x[torch.tensor([0])],
    ):  # fmt: skip
        assert waits(ask) == 1
    for ask in (
        lambda: x * 2, lambda: x[n[None]], lambda: x.masked_fill(x > 1, 0.0), lambda: x[:2],
        lambda: torch.zeros(3).to(DEVICE, non_blocking=True), lambda: x.argsort(),
        lambda: torch.full((2,), 1.0, device=DEVICE), lambda: x * torch.tensor(2.0),
    ):  # fmt: skip
        assert waits(ask) == 0
    with pytest.raises(AssertionError, match="two devices"):
        waits(lambda: x + torch.zeros(3))


# 2 blocks and 3 utterances; 3 blocks, one more middle size and 6 utterances.
SHAPES = [
    ((3, 5, 8), Schedule((4, 4), (3, 5)), 1),
    ((3, 5, 7, 12), Schedule((4, 4), (5, 9)), 2),
]


def model_and_batch(shape, stage, method, granularity="layer", own_weights=False, **conf):
    sizes, schedule, times = shape
    own = {"num_blocks": sizes[-1] // 4, "sizes": sizes, "granularity": granularity}
    own["own_weights"] = own_weights
    model = make_model(
        own, schedule, method=method,
        stochastic_depth_p1=0.3, stochastic_depth_p2=0.4, **conf,
    )  # fmt: skip
    with torch.no_grad():
        model.encoder.scores.normal_()
    model.state.updates.fill_(5 if stage == 1 else 20)
    if stage == 2:
        model.state.freeze(torch.randperm(model.encoder.num_units))
    return model, {key: torch.cat([value] * times) for key, value in make_batch().items()}


def files(waits: Counter) -> Counter:
    found = Counter()
    for line, count in waits.items():
        found[line.split(":")[0]] += count
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=["small", "larger"])
@pytest.mark.parametrize("method", ["simple_top_k", "iterative_zero_out", "ortho_softmax"])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(
    "conf",
    [{}, {"granularity": "component", "budget": "macs", "rank_per_cost": True},
     {"own_weights": True}],
    ids=["layers", "components", "own weights"],
)  # fmt: skip
def test_an_update_waits_once_whatever_it_runs(conf, stage, method, shape, monkeypatch):
    model, batch = model_and_batch(shape, stage, method, **conf)
    waits = files(count_waits(model, batch, monkeypatch))
    # ESPnet's cut of the speech, when the device has nothing else to do.
    assert waits.pop("espnet2/asr/espnet_model.py") == 1
    # After the optimizer's step, when the scores may have changed.
    assert waits.pop("espnet_des/method/tracker.py", 0) == (stage == 1)
    assert waits == {"espnet_des/nn/model.py": 1}


def add_front_end(model):
    """ESPnet's usual one, of 12 features."""
    from espnet2.asr.frontend.default import DefaultFrontend
    from espnet2.asr.specaug.specaug import SpecAug
    from espnet2.layers.utterance_mvn import UtteranceMVN

    model.frontend = DefaultFrontend(fs=8000, n_fft=64, hop_length=32, n_mels=12)
    model.specaug = SpecAug(
        freq_mask_width_range=(0, 3), time_mask_width_range=(0, 5), time_warp_window=5
    )
    model.normalize = UtteranceMVN()


def test_nor_does_a_front_end_wait_for_each_utterance(monkeypatch):
    found = []
    for shape in SHAPES:
        model, batch = model_and_batch(shape, 2, "simple_top_k")
        add_front_end(model)
        lengths = batch["speech_lengths"] * 50
        batch |= {
            "speech": torch.randn(len(lengths), lengths.max()),
            "speech_lengths": lengths,
        }
        found.append(files(count_waits(model, batch, monkeypatch)))
    assert found[0] == found[1]
    # The second one is for ESPnet's SpecAugment; the others are ESPnet's, before the layers.
    assert found[0]["espnet_des/nn/model.py"] == 2
    assert sum(found[0].values()) <= 10


@pytest.mark.parametrize("stage", [1, 2])
def test_the_device_changes_no_value(stage, monkeypatch):
    """Nor does the scale of fp16, which comes with the one transfer."""

    def update(model, batch):
        torch.manual_seed(7)
        loss = model(**batch)[0]
        loss.backward()
        return loss, [p.grad for p in model.parameters()]

    # On a CPU ours draws other numbers than a device's.
    monkeypatch.setattr(QuickDropout, "forward", torch.nn.Dropout.forward)
    model, batch = model_and_batch(SHAPES[0], stage, "simple_top_k")
    plain = update(model.train(), batch)
    model.zero_grad()
    batch["loss_scale"] = torch.tensor(2.0**10)
    scales = []

    class Noted(espnet_des.nn.model.BackwardPerPass):
        def __init__(self, front, parameters, scale):
            scales.append(scale)
            super().__init__(front, parameters, scale)

    monkeypatch.setattr(espnet_des.nn.model, "BackwardPerPass", Noted)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    move(model)
    with CountWaits() as counted, CopyNumbers():
        there = update(model, {key: OnDevice(value) for key, value in batch.items()})
    assert scales == [2.0**10] and files(counted.waits)["espnet_des/nn/model.py"] == 1
    torch.testing.assert_close(there[0].held, plain[0])
    for mine, theirs in zip(there[1], plain[1]):
        mine = None if mine is None else mine.held
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("equal", [False, True])
def test_closed_gates_are_known_from_the_scores(equal):
    schedule, scores = Schedule((4, 4), (3, 5)), torch.randn(8)
    scores = torch.full_like(scores, 0.5) if equal else scores
    for t in (0, 5):
        for method in (SimpleTopK(), SimpleTopK(hard=False), IterativeZeroOut()):
            zeros = (method.gates(scores, schedule, t) == 0).nonzero().flatten().tolist()
            assert method.closed(scores, schedule, t) == zeros
