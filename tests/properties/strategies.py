"""What the properties hold for: settings, walks of the scores, tiny supernets, batches."""

import io
from typing import NamedTuple

import numpy
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from espnet_des.method.methods import METHODS
from espnet_des.method.options import SelectionOptions
from espnet_des.method.ortho_softmax import OrthoSoftmax
from espnet_des.method.selection import Schedule
from espnet_des.method.sizes import check_sizes
from espnet_des.nn.model import DESModel
from tests.conftest import TINY_OF, TOKENS, make_model

# Enough features for every kind of subsampling.
DIM = 16
# The fewest frames of which each front end makes one.
FRONT_ENDS = {"conv2d": 7, "vgg": 4, "conv2d1": 5, "conv2d2": 7, "conv2d6": 11,
              "conv2d8": 15, "linear": 1, "dw_striding": 1}  # fmt: skip
# Those with which ESPnet's own Conformer does not look at the padding: with the old relative
# ones a distance has another position in a longer batch, the convolutional ones see all.
POSITIONS = [
    {"pos_enc_layer_type": "rel_pos"},
    {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"},
    {"pos_enc_layer_type": "scaled_abs_pos", "selfattention_layer_type": "selfattn"},
]
OLD_POSITIONS = {"pos_enc_layer_type": "rel_pos", "rel_pos_type": "legacy"}  # ESPnet's default
SEEDS = st.integers(0, 2**32 - 1)


def through_a_file(state: dict) -> dict:
    """What is loaded where a state dict was saved."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def average(files: list[dict]) -> dict:
    """The mean of state dicts in ESPnet's arithmetic: integers are only summed."""
    sums = {key: sum(file[key] for file in files) for key in files[0]}
    return {k: v / len(files) if v.is_floating_point() else v for k, v in sums.items()}


class Run(NamedTuple):
    """Valid settings of the selection, resolved to updates."""

    sizes: list[int]
    options: SelectionOptions
    schedule: Schedule

    @property
    def num_layers(self) -> int:
        return self.sizes[-1]

    @property
    def last_update(self) -> int:
        return self.schedule.last_update


@st.composite
def size_lists(draw, num_layers: int):
    some = st.sets(st.integers(1, num_layers - 1), min_size=1, max_size=4).map(sorted)
    smaller = draw(st.none() | some)
    return check_sizes(smaller and [*smaller, num_layers], num_layers)


# Of methods with a score for each layer.
ONE_SCORE_EACH = tuple(name for name, method in METHODS.items() if method is not OrthoSoftmax)


@st.composite
def settings_of(draw, num_layers: int, smallest: int, methods=ONE_SCORE_EACH):
    """Keys of model_conf that choose the layers, without those of the length."""
    conf, to_go = {"method": draw(st.sampled_from(methods))}, num_layers - smallest
    if conf["method"] == "iterative_zero_out":
        before = st.just([])
        if to_go > 1:
            before = st.sets(st.integers(1, to_go - 1)).map(sorted)
        conf["zeroed"] = draw(st.none() | before.map(lambda zeroed: [*zeroed, to_go]))
        conf["published_ranking"] = draw(st.booleans())
    elif conf["method"] == "ortho_softmax":
        conf["temperature_final"] = draw(st.floats(0.01, 1.0))
    else:
        divisors = [d for d in range(1, to_go + 1) if to_go % d == 0]
        conf["reduction"] = draw(st.none() | st.sampled_from(divisors))
    if conf["method"] == "fixed":
        conf["ranking"] = draw(st.permutations(range(num_layers)))
    if conf["method"] == "simple_top_k":
        conf["averaged_iterations"] = draw(st.integers(0, 3))
        conf["hard_gates"] = draw(st.booleans())
    return conf


FEW_LAYERS, FEW_UPDATES = st.integers(2, 10), st.integers(1, 3)


@st.composite
def runs(draw, num_layers=FEW_LAYERS, updates=FEW_UPDATES, sizes=None, **more):
    """Any valid run: by default so short that it can be walked through.

    Args:
        num_layers: of the encoder, where sizes are not given.
        updates: per iteration.
        sizes: of an encoder that is there already.
    """
    if sizes is None:
        sizes = draw(size_lists(draw(num_layers)))
    conf = draw(settings_of(sizes[-1], sizes[0], **more))
    count = len(SelectionOptions(**conf).zeroed_per_iteration(sizes[-1], sizes[0]))
    each = st.lists(updates, min_size=count, max_size=count)
    options = SelectionOptions(**conf, updates_per_iteration=draw(updates | each))
    return Run(sizes, options, options.resolve(sizes[-1], sizes[0], None))


# Where scores tie, where they are as they start, and at the ends of float32.
SPECIAL = [0.0, -0.0, 0.5, 10.0, -5.0, 1e-45, -1e-45, 3.4e38, -3.4e38]
SCORES = st.sampled_from(SPECIAL).map(lambda v: float(numpy.float32(v))) | st.floats(
    width=32, allow_nan=False, allow_infinity=False
)


@st.composite
def score_walks(draw, num_updates: int, num_layers: int):
    """Scores after each update, ``(updates, layers)`` in float32; NaN where one stays.

    Drawn one by one, or walks on a grid, where many meet.
    """
    shape = (num_updates, num_layers)
    if draw(st.booleans()):
        values = SCORES | st.just(float("nan"))
        walks = arrays(numpy.float32, shape, elements=values, fill=values)
        return torch.from_numpy(draw(walks))
    rng = numpy.random.default_rng(draw(SEEDS))
    unit = draw(st.sampled_from([1.0, -1.0, 1e-3, 1e-44, 1e36]))
    walk = rng.integers(-2, 3, shape).cumsum(0) * unit
    walk[rng.random(shape) < draw(st.sampled_from([0.0, 0.5]))] = float("nan")
    return torch.from_numpy(walk.astype(numpy.float32))


def own_keys(draw, encoder: str, positions) -> dict:
    """Any values of the keys that one kind of encoder has, and the layers in a block."""
    position = draw(st.sampled_from(positions))
    if encoder == "des_transformer":
        return {"concat_after": draw(st.booleans())}
    if "branchformer" in encoder:
        keys = {k.replace("selfattention", "attention"): v for k, v in position.items()}
        if encoder == "des_e_branchformer":
            keys["use_ffn"] = draw(st.booleans())
            keys["macaron_ffn"] = keys["use_ffn"] and draw(st.booleans())
            keys["use_linear_after_conv"] = draw(st.booleans())
        return keys
    keys = position | {
        "macaron_style": draw(st.booleans()),
        "use_cnn_module": draw(st.booleans()),
        "layer_order": draw(st.sampled_from(["espnet", "paper"])),
        "concat_after": draw(st.booleans()),
    }
    if encoder == "des_conformer":
        keys["conv_norm"] = draw(st.sampled_from(["layer_norm", "batch_norm"]))
    return keys


def layers_per_block(encoder: str, keys: dict) -> int:
    if "branchformer" in encoder:
        return 2 + keys.get("use_ffn", False) + keys.get("macaron_ffn", False)
    return 2 + keys.get("macaron_style", False) + keys.get("use_cnn_module", False)


@st.composite
def encoder_confs(
    draw,
    max_blocks=4,
    front_ends=tuple(FRONT_ENDS),
    positions=POSITIONS,
    encoders=tuple(TINY_OF),
    **fixed,
):
    """An encoder, by its name, and any conf of it; some of its keys can be fixed."""
    encoder = draw(st.sampled_from(encoders))
    conf = {
        "encoder": encoder,
        "input_size": DIM,
        "num_blocks": draw(st.integers(1, max_blocks)),
        "input_layer": draw(st.sampled_from(front_ends)),
        **own_keys(draw, encoder, positions),
        **fixed,
    }
    if conf["input_layer"] == "dw_striding":
        conf["subsampling_factor"] = draw(st.sampled_from([None, 4, 8]))
        conf["subsampling_channels"] = draw(st.integers(1, 8))
    conf["upsampling_factor"] = draw(st.sampled_from([None, 1, 2]))
    if encoder not in ("des_transformer", "des_branchformer"):
        # The table of positions is made longer where an utterance needs it.
        conf["max_pos_emb_len"] = draw(st.sampled_from([5000, 4]))
    per_block = layers_per_block(encoder, conf)
    return conf | {"sizes": draw(size_lists(per_block * conf["num_blocks"]))}


def randomise(model: torch.nn.Module) -> None:
    """As after a training: nothing is 0 or 1, and output layers differ by size."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)


class Supernet(NamedTuple):
    """A supernet that is trained, ready for recognition, and its settings."""

    model: DESModel
    conf: dict

    def __repr__(self):
        return f"{self.conf}, ranking {self.model.encoder.ranking()}"

    @property
    def sizes(self) -> list[int]:
        return self.model.encoder.sizes


@st.composite
def supernets(draw, **more):
    conf, ranking_seed = draw(encoder_confs(**more)), draw(SEEDS)
    torch.manual_seed(ranking_seed)
    model = make_model(conf).eval()
    randomise(model)
    model.state.freeze(torch.randperm(model.encoder.num_layers))
    model.state.updates.fill_(100)
    return Supernet(model, conf)


class Batch(NamedTuple):
    """Features ``(rows, frames, DIM)`` with any values beyond their lengths."""

    feats: torch.Tensor
    lengths: torch.Tensor

    def row(self, i: int) -> "Batch":
        """One utterance alone, without padding."""
        return Batch(self.feats[i : i + 1, : self.lengths[i]], self.lengths[i : i + 1])

    def padded(self, frames: int) -> "Batch":
        more = (0, 0, 0, frames - self.feats.size(1))
        return Batch(torch.nn.functional.pad(self.feats, more), self.lengths)


@st.composite
def batches(draw, conf: dict, max_rows=4, max_frames=50):
    """Utterances of any lengths that the front end takes, and any padding."""
    shortest = FRONT_ENDS[conf["input_layer"]]
    # Shrinks to one, as short as can be; such lengths come up often.
    frames = st.integers(shortest, shortest + 3) | st.integers(shortest, max_frames)
    lengths = torch.tensor(draw(st.lists(frames, min_size=1, max_size=max_rows)))
    padding = draw(st.sampled_from([0.0, 1.0, -30.0, 1e4]))
    torch.manual_seed(draw(SEEDS))
    feats = torch.randn(len(lengths), int(lengths.max()), DIM)
    beyond = torch.arange(feats.size(1)) >= lengths[:, None]
    return Batch(feats.masked_fill(beyond[..., None], padding), lengths)


@st.composite
def texts(draw, rows: int):
    """Token ids ``(rows, length)``, -1 beyond their lengths, and the lengths."""
    ids = st.lists(st.integers(2, len(TOKENS) - 2), min_size=1, max_size=4)
    drawn = [torch.tensor(draw(ids)) for _ in range(rows)]
    lengths = torch.tensor([len(text) for text in drawn])
    return torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True, padding_value=-1), lengths


@torch.no_grad()
def log_probs(model: torch.nn.Module, batch: Batch):
    """What is recognised from: log-probabilities ``(rows, time, tokens)`` and lengths."""
    # A copy: ESPnet's normalisation works in place.
    out, lengths = model.encode(batch.feats.clone(), batch.lengths)
    return model.ctc.log_softmax(out), lengths
