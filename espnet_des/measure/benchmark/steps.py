"""What ``benchmark_training`` times: a step of a plain model, an update of a supernet.

A step is forward and backward of one batch, without an optimizer. Weights, features
and labels are random: they do not change the time.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from espnet2.asr.ctc import CTC
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet_des.measure.benchmark.published import published_loss
from espnet_des.method.methods import OF_THE_PAPER
from espnet_des.method.options import SelectionOptions
from espnet_des.method.selection import IterativeZeroOut, Schedule
from espnet_des.nn.encoders import SUBNETS, SUPERNETS
from espnet_des.nn.model import DESModel

FEATURES, FRAMES_PER_SECOND, VOCABULARY, LABELS_PER_SECOND = 80, 100, 500, 4
MODULES_PER_BLOCK = 4  # macaron style, in a Conformer and an E-Branchformer
Step = Callable[[], object]


class Setting(NamedTuple):
    """What is trained on what.

    Attributes:
        sizes: numbers of layers, ascending, the last one all; four in a block.
        encoder: ``des_conformer`` or ``des_e_branchformer``.
        seconds: of audio, of each utterance.
        utterances: in the batch.
        precision: ``float32``, or ``bfloat16`` for autocast.
        preset: of ``model_conf``, for what does not run "as published"; None for the defaults.
    """

    num_blocks: int = 12
    dim: int = 384
    sizes: tuple[int, ...] = (16, 32, 48)
    encoder: str = "des_conformer"
    input_layer: str = "conv2d"
    seconds: float = 10.0
    utterances: int = 4
    device: str = "cpu"
    precision: str = "float32"
    seed: int = 0
    preset: str | None = None

    @property
    def labels(self) -> int:
        """Tokens of each utterance."""
        return max(1, round(self.seconds * LABELS_PER_SECOND))


class Bench:
    """The models and the batch of a setting, and functions that run one step."""

    def __init__(self, setting: Setting):
        self.setting = setting
        torch.manual_seed(setting.seed)
        self.batch = make_batch(setting)
        self.num_layers = MODULES_PER_BLOCK * setting.num_blocks
        self.plain: dict[int, ESPnetASRModel] = {}
        self.supernets = {method: self._supernet(method) for method in OF_THE_PAPER}
        self.ranking = balanced_ranking(setting.num_blocks)

    def plain_of(self, size: int) -> ESPnetASRModel:
        """A model of only the first layers, to be trained by itself."""
        if size not in self.plain:
            conf = self._conf(math.ceil(size / MODULES_PER_BLOCK))
            subnet = SUBNETS[f"{self.setting.encoder}_subnet"]
            encoder = subnet(FEATURES, kept_layers=list(range(size)), **conf)
            self.plain[size] = self._model(ESPnetASRModel, encoder)
        return self.plain[size]

    def _supernet(self, method: str) -> DESModel:
        sizes, conf = list(self.setting.sizes), self._conf(self.setting.num_blocks)
        if self.setting.preset == "published":
            conf["own_weights"] = False  # of the encoder, which presets leave alone
        encoder = SUPERNETS[self.setting.encoder](FEATURES, sizes=sizes, **conf)
        model = self._model(DESModel, encoder, method=method, preset=self.setting.preset)
        zeroed = model.options.zeroed_per_iteration(sizes[-1], sizes[0])
        model.state.set_schedule(Schedule((1,) * len(zeroed), tuple(zeroed)))
        return model

    def _conf(self, num_blocks: int) -> dict:
        dim = self.setting.dim
        conf: dict = {
            "output_size": dim, "linear_units": 4 * dim, "attention_heads": max(1, dim // 64),
            "num_blocks": num_blocks, "rel_pos_type": "latest",
            "input_layer": self.setting.input_layer, "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1, "attention_dropout_rate": 0.1,
        }  # fmt: skip
        if self.setting.encoder == "des_e_branchformer":  # the ratios of ESPnet's recipes
            return conf | {
                "use_ffn": True, "macaron_ffn": True, "linear_units": 2 * dim,
                "cgmlp_linear_units": 6 * dim, "cgmlp_conv_kernel": 31, "merge_conv_kernel": 31,
            }  # fmt: skip
        if self.setting.preset == "published":  # of the encoder, too
            conf["conv_norm"] = "layer_norm"
        return conf | {"cnn_module_kernel": 31, "macaron_style": True}

    def _model(self, kind: type, encoder: torch.nn.Module, **conf) -> ESPnetASRModel:
        model = kind(
            vocab_size=VOCABULARY, token_list=[str(i) for i in range(VOCABULARY)],
            frontend=None, specaug=None, normalize=None, preencoder=None, encoder=encoder,
            postencoder=None, decoder=None, ctc=CTC(VOCABULARY, self.setting.dim),
            joint_network=None, ctc_weight=1.0, report_cer=False, report_wer=False, **conf,
        )  # fmt: skip
        return model.to(self.setting.device).train()

    @property
    def options(self) -> SelectionOptions:
        """Of both methods, but for their names."""
        return self.supernets["simple_top_k"].options

    @property
    def schedule(self) -> Schedule:
        """Of either method, with iterations of one update."""
        return self.supernets["simple_top_k"].state.get_schedule()

    # ---- steps -----------------------------------------------------------------

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.setting.precision == "float32":
            return contextlib.nullcontext()
        dtype = getattr(torch, self.setting.precision)
        return torch.autocast(torch.device(self.setting.device).type, dtype=dtype)

    def step(self, model: torch.nn.Module, loss_of: Callable[[], torch.Tensor]) -> None:
        with self.autocast():
            loss = loss_of()
        loss.backward()
        model.zero_grad()

    def plain_step(self, size: int) -> Step:
        model = self.plain_of(size)
        return lambda: self.step(model, lambda: model(**self.batch)[0])

    def forward_of_plain(self) -> Step:
        """Only the forward of the full size, with its graph."""
        model = self.plain_of(self.num_layers)

        def forward():
            with self.autocast():
                return model(**self.batch)[0]

        return forward

    def front_end(self, backward: bool) -> Step:
        """Only the front end, with its graph; the gradient comes from outside."""
        model = self.plain_of(self.num_layers)
        speech, lengths = self.batch["speech"], self.batch["speech_lengths"]

        def run():
            with self.autocast():
                x = model.encoder.subsample(speech, lengths).x
            if backward:
                x.backward(torch.ones_like(x))
                model.zero_grad()

        return run

    def stage1(self, method: str, iteration: int, published: bool = False) -> Step:
        """An update of an iteration of stage 1 (0-based; -1 for the last)."""
        model = self.supernets[method]
        iteration %= len(self.schedule.updates)
        # Iteration i of Iterative-Zero-Out ends with update i + 1, inclusive.
        t = iteration + (iteration > 0) * (method == "iterative_zero_out")
        return self._update(model, 1, t, published)

    def stage2(
        self, drop_rate: float, published: bool = False, middle: int | None = None
    ) -> Step:
        """An update of stage 2, the same in either method.

        Args:
            drop_rate: p2 of stochastic depth.
            published: as the published code computes it.
            middle: the middle size that the update trains; None for any.
        """
        model = self.supernets["simple_top_k"]
        t = self.schedule.last_update + 1
        while middle is not None and model.middle_size(t) != middle:
            t += 1
        return self._update(model, 2, t, published, drop_rate)

    def _update(
        self, model: DESModel, stage: int, t: int, published: bool, drop_rate: float = 0.0
    ) -> Step:
        def loss_of():
            return published_loss(model, **self.batch) if published else model(**self.batch)[0]

        def run():
            set_update(model, stage, t, self.ranking, drop_rate)
            self.step(model, loss_of)

        return run

    def models(self) -> list[torch.nn.Module]:
        return [*self.plain.values(), *self.supernets.values()]


def set_update(
    model: DESModel, stage: int, t: int, ranking: Sequence[int], drop_rate: float
) -> None:
    """Put a supernet where update ``t`` of a training would find it."""
    model.options = dataclasses.replace(model.options, stochastic_depth_p2=drop_rate)
    model.state.updates.fill_(t)
    model.state.ranking.zero_()
    if stage == 2:
        model.state.freeze(torch.tensor(ranking))
    order, scores = torch.tensor(ranking), model.encoder.scores
    with torch.no_grad():
        if isinstance(model.selector, IterativeZeroOut):
            kept = model.selector.num_kept(model.state.get_schedule(), t, len(ranking))
            scores.fill_(model.selector.zeroed_score)
            scores[order[:kept]] = model.selector.initial_score
        else:
            scores[order] = torch.linspace(0.51, 0.49, len(ranking), device=scores.device)


def balanced_ranking(num_blocks: int) -> list[int]:
    """Layers in random order, but with as many of each module in every four.

    So that a set of k layers costs k / num_layers of all, on the average over blocks.
    """
    blocks = [torch.randperm(num_blocks).tolist() for _ in range(MODULES_PER_BLOCK)]
    return [
        MODULES_PER_BLOCK * block + position
        for four in zip(*blocks)
        for position, block in enumerate(four)
    ]


def make_batch(setting: Setting) -> dict[str, torch.Tensor]:
    """Utterances of equal length, without padding."""
    rows, frames = setting.utterances, round(setting.seconds * FRAMES_PER_SECOND)
    labels = setting.labels
    batch = {
        "speech": torch.randn(rows, frames, FEATURES),
        "speech_lengths": torch.full((rows,), frames),
        "text": torch.randint(1, VOCABULARY, (rows, labels)),
        "text_lengths": torch.full((rows,), labels),
    }
    return {name: value.to(setting.device) for name, value in batch.items()}
