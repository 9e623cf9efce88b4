"""``model: des``: the losses of both stages over a supernet encoder.

Source: Xu et al., Interspeech 2024, sections 3 and 4. Stage 1 learns the layer
scores with the full and the smallest size; stage 2 trains the chosen sizes by
the sandwich rule: the full, the smallest and one middle size per update.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy
import torch

from espnet2.asr.decoder.linear_decoder import LinearDecoder
from espnet2.asr.espnet_model import ESPnetASRModel, autocast_type
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet_des.errors import ConfigError, is_number
from espnet_des.espnet_api import attention_loss, extract_features, leave_to_the_ranks
from espnet_des.method.options import SelectionOptions
from espnet_des.method.passes import Pass, passes_of_stage_1, passes_of_stage_2
from espnet_des.method.state import METHOD_NAMES
from espnet_des.method.tracker import SelectionTracker
from espnet_des.nn.backward import BackwardPerPass
from espnet_des.nn.encoder import SupernetEncoder
from espnet_des.nn.front_end import Subsampled
from espnet_des.nn.output_layers import SizedLinear, ctc_of_size
from espnet_des.nn.waveforms import mirrored_samples
from espnet_des.utils.ranks import warn_of_data
from espnet_des.utils.signature import merge_signature

NAMED = 20  # utterances; there may be many more


class Targets(NamedTuple):
    """CTC targets and their lengths, fetched from the device in one transfer.

    Attributes:
        text: token ids ``(batch, length)``.
        text_lengths: ``(batch,)``.
        frames: lengths of the encoder's output ``(batch,)``.
        text_lengths_cpu, frames_cpu: the same on the CPU.
    """

    text: torch.Tensor
    text_lengths: torch.Tensor
    frames: torch.Tensor
    text_lengths_cpu: torch.Tensor
    frames_cpu: torch.Tensor


def to_cpu(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """The same values on the CPU, in one transfer: each waits for the device.

    Args:
        tensors: of any shapes, and dtypes that float64 can hold; the first one is
            on the device.
    """
    device = tensors[0].device
    moved = [t.detach().to(device, non_blocking=True).flatten().double() for t in tensors]
    flat = torch.cat(moved).cpu()
    parts = flat.split([t.numel() for t in tensors])
    return [part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors)]


def frames_of_ctc(text: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The fewest frames in which CTC can say each text, ``(batch,)``.

    One for each token, and a blank between two that are equal.

    Args:
        text: token ids ``(batch, length)``.
        lengths: ``(batch,)``.
    """
    places = torch.arange(text.size(1), device=text.device)[1:]
    is_repeat = (text[:, 1:] == text[:, :-1]) & (places < lengths[:, None])
    return lengths + is_repeat.sum(1)


class UnusableUtterances:
    """Names utterances whose text does not fit into their audio, each once.

    ESPnet's CTC loss of them is 0 (``zero_infinity``), and they are trained on in vain.
    """

    def __init__(self):
        self.seen = set()

    def tell(self, utts: Sequence[str], frames: torch.Tensor, needed: torch.Tensor) -> None:
        """Warn.

        Args:
            utts: ids of a batch; empty where they are not known.
            frames: of the encoder, ``(batch,)``, on the CPU.
            needed: see :func:`frames_of_ctc`; on the CPU.
        """
        for utt, has, needs in zip(utts, frames.tolist(), needed.tolist()):
            if has >= needs or utt in self.seen:
                continue
            self.seen.add(utt)
            if len(self.seen) <= NAMED:
                warn_of_data(
                    f"Utterance {utt} teaches CTC nothing: its text takes {needs} frames of "
                    f"the encoder, its audio has {has}. Does the text belong to it?"
                )
            if len(self.seen) == NAMED:
                warn_of_data("Further such utterances are not named.")


class ErrorRates:
    """ESPnet's error rates; NaN of a batch without words, by which ESPnet would divide."""

    def __init__(self, calculator):
        self.calculator = calculator
        wanted = {"cer": calculator.report_cer, "wer": calculator.report_wer}
        self.names = [name for name, is_wanted in wanted.items() if is_wanted]

    def __call__(self, ys_hat, ys_pad, is_ctc: bool = False):
        try:
            return self.calculator(ys_hat, ys_pad, is_ctc)
        except ZeroDivisionError:
            return float("nan"), float("nan")


@merge_signature(SelectionOptions)
@merge_signature(ESPnetASRModel)
class DESModel(ESPnetASRModel):
    """ESPnet's CTC or hybrid CTC/attention model over a supernet encoder.

    Args:
        **kwargs: the settings of :class:`SelectionOptions` and the arguments
            of ESPnetASRModel.
    """

    error_calculator: Any  # ESPnet's; None where nothing is reported

    def __init__(self, **kwargs):
        known = inspect.signature(type(self)).parameters
        for key, value in kwargs.items():
            if key not in known:
                keys = [k for k in known if k not in ("vocab_size", "token_list")]
                raise ConfigError(
                    f"model_conf: {key}: {value!r} is unknown to model: des; it takes {keys}"
                )
        own = {k: kwargs.pop(k) for k in SelectionOptions.keys() if k in kwargs}
        check_arguments(kwargs)
        super().__init__(**kwargs)
        self.options = SelectionOptions(**own)
        self.selector = self.options.selector(self.encoder.num_layers)
        self.encoder.rank_by(self.selector)
        # Fails now, before any training, where the lists cannot belong together.
        num_layers, smallest = self.encoder.num_layers, self.encoder.sizes[0]
        self.options.zeroed_per_iteration(num_layers, smallest)
        if self.options.updates_per_iteration is not None:
            self.options.resolve(num_layers, smallest, None)
        self.state.method.fill_(METHOD_NAMES.index(self.options.method))
        self.ctc.ctc_lo = SizedLinear(
            self.ctc.ctc_lo, self.encoder, self.options.shared_output
        )
        # They stay on the CPU, and are equal on all ranks without DDP's help.
        names = [f"encoder.selection.{name}" for name, _ in self.state.named_buffers()]
        leave_to_the_ranks(self, names)
        self.start_scores()
        self.tracker = SelectionTracker(self.state, self.selector, self.options)
        self.tracker.start_epoch(self.encoder.scores)
        self.unusable = UnusableUtterances()
        if self.error_calculator is not None:
            self.error_calculator = ErrorRates(self.error_calculator)

    def start_scores(self) -> None:
        """Set scores and output layers to what training starts from."""
        with torch.no_grad():
            self.encoder.scores.fill_(self.selector.initial_score)
        self.ctc.ctc_lo.copy_full_to(self.encoder.sizes)

    # What ESPnet calls after --init has filled the parameters in its own way.
    espnet_initialization_fn = start_scores

    @property
    def state(self):
        return self.encoder.selection

    @property
    def stage(self) -> int:
        return 2 if self.state.is_frozen else 1

    def set_size(self, size: int) -> None:
        """Recognise at this size from now on: its layers, its output layer."""
        self.encoder.set_size(size)

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """As in torch, but a supernet's checkpoint must be whole.

        ESPnet's inference loads with strict=False: without this check, weights
        that are missing would silently stay random.
        """
        self.state.check_whole(state_dict, list(self.state_dict()))
        return super().load_state_dict(state_dict, strict, assign)

    # ---- one update -------------------------------------------------------

    def passes(self, t: int, scores: torch.Tensor | None = None) -> list[Pass]:
        """What update t runs, in the order in which it runs.

        Args:
            scores: of the layers, where they are on the CPU already.
        """
        encoder, options = self.encoder, self.options
        if self.stage == 2:
            ranking = self.state.frozen_ranking()
            return passes_of_stage_2(options, encoder.sizes, ranking, self.middle_size(t))
        if scores is None:
            scores = encoder.scores.detach().cpu()
        return passes_of_stage_1(
            options, self.selector, self.state.get_schedule(), t, encoder.sizes,
            encoder.scores, scores,
        )  # fmt: skip

    def middle_size(self, t: int) -> int | None:
        """The middle size of update t: uniform, and the same on every rank."""
        middles = self.encoder.sizes[1:-1]
        if not middles:
            return None
        seed = int(self.state.seed)
        draws = numpy.random.default_rng(t if seed < 0 else (seed, t))
        return middles[draws.integers(len(middles))]

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        utt_id: Sequence[str] = (),
        loss_scale: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Loss of one update in training, of every size in evaluation.

        Args:
            speech: ``(batch, samples, ...)``.
            speech_lengths: ``(batch,)``.
            text: token ids ``(batch, length)``.
            text_lengths: ``(batch,)``.
            utt_id: names of the utterances, for warnings.
            loss_scale: what keeps the gradients of fp16 from vanishing, ``()``: the
                GradScaler's, which comes too late for those that are made in here.
            **kwargs: of the batch, not used.

        Returns:
            Loss, statistics, number of utterances.
        """
        front = self.features(speech, speech_lengths)
        frames = front.mask.squeeze(1).sum(1)
        needed = frames_of_ctc(text, text_lengths)
        # All that Python decides by: the passes then run without waiting for the device.
        if loss_scale is None or torch.get_autocast_dtype("cuda") != torch.float16:
            loss_scale = torch.ones((), device=frames.device)  # bf16 needs none
        frames_cpu, text_lengths_cpu, needed_cpu, scores, scale = to_cpu(
            frames, text_lengths, needed, self.encoder.scores, loss_scale
        )
        self.unusable.tell(utt_id, frames_cpu, needed_cpu)
        text = text.masked_fill(text == -1, self.ignore_id)
        text = text[:, : text_lengths_cpu.max()]
        targets = Targets(text, text_lengths, frames, text_lengths_cpu, frames_cpu)
        if self.training:
            loss, stats = self._training_loss(front, targets, scores, scale.item())
        else:
            loss, stats = self._evaluation_loss(front, targets)
        stats["loss"] = loss.detach()
        stats["stage"] = float(self.stage)
        # Filled in on the device, where force_gatherable would copy each number to it.
        for key, value in stats.items():
            if isinstance(value, float):
                stats[key] = torch.full((1,), value, device=loss.device)
        weight = torch.full((1,), speech.shape[0], device=loss.device)
        return force_gatherable((loss, stats, weight), loss.device)

    def features(self, speech: torch.Tensor, lengths: torch.Tensor) -> Subsampled:
        """Everything before the layers, as in ESPnet's ``encode``: once for all sizes.

        Args:
            speech: ``(batch, samples, ...)``.
            lengths: in samples, ``(batch,)``.
        """
        speech, lengths = self._as_long_as_the_stft_needs(speech, lengths)
        with torch.amp.autocast("cuda", enabled=self.autocast_frontend, dtype=autocast_type):
            feats, lengths = extract_features(self, speech, lengths)
            if self.specaug is not None and self.training:
                # ESPnet's time warp reads the lengths one by one.
                feats, lengths = self.specaug(feats, lengths.cpu())
                lengths = lengths.to(feats.device, non_blocking=True)
            if self.normalize is not None:
                feats, lengths = self.normalize(feats, lengths)
        if self.preencoder is not None:
            feats, lengths = self.preencoder(feats, lengths)
        try:
            return self.encoder.subsample(feats, lengths)
        except TooShortUttError as error:
            # All of them: padded as beside a longer one, they teach nothing, and do no harm.
            lacking = error.limit + 1 - feats.size(1)
            feats = torch.nn.functional.pad(feats, [0, 0, 0, lacking])
            return self.encoder.subsample(feats, lengths)

    def _as_long_as_the_stft_needs(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch with silence behind it where all of its utterances are too short.

        Beside a longer one they are no obstacle, being padded up to it.
        """
        lacking = mirrored_samples(self) + 1 - speech.size(1)
        if lacking <= 0:
            return speech, lengths
        after = [0, 0] * (speech.dim() - 2) + [0, lacking]
        speech = torch.nn.functional.pad(speech, after)
        return speech, lengths.clamp(min=speech.size(1))

    def _training_loss(self, front, targets: Targets, scores, scale: float):
        schedule = self.state.get_schedule()
        if schedule is None:
            raise RuntimeError(
                "this supernet has no schedule yet: train it with espnet2.bin.asr_train "
                "through python3 -m espnet_des, whose Trainer sets it"
            )
        t = int(self.state.updates)
        stats: dict[str, Any] = {}
        sums = BackwardPerPass(front.x, self._after_the_front_end(), scale)
        *earlier, last = self.passes(t, scores)
        for p in earlier:
            loss, size_stats = self._loss_of_pass(front._replace(x=sums.front), p, targets)
            sums.add(p.weight * loss)
            stats.update(size_stats)
        small = self.encoder.sizes[0]
        if self.stage == 1:
            gap = self.selector.sparsity_gap(self.encoder.scores, schedule, t)
            if gap is not None:
                sums.add(self.options.sparsity_weight * gap)
                stats["loss_sparsity"] = gap.detach()
            small = self.selector.num_kept(schedule, t, self.encoder.num_layers)
        stats["layers_small"] = float(small)
        loss, size_stats = self._loss_of_pass(front, last, targets)
        return sums.loss(last.weight * loss), stats | size_stats

    def _after_the_front_end(self) -> list[torch.nn.Parameter]:
        """Parameters that a pass uses, of what :meth:`features` has not used."""
        front = (
            self.frontend,
            self.specaug,
            self.normalize,
            self.preencoder,
            self.encoder.embed,
        )
        used = {id(p) for module in front if module is not None for p in module.parameters()}
        return [p for p in self.parameters() if id(p) not in used]

    def _idle_parameters(self, t: int) -> list[torch.nn.Parameter]:
        """Output layers of sizes without a loss, and scores that nothing teaches."""
        sizes = self.encoder.sizes
        trained, idle = [sizes[0], sizes[-1]], []
        if self.stage == 2:
            trained.append(self.middle_size(t))
        if self.stage == 2 or not self.selector.learns:
            idle.append(self.encoder.scores)
        return idle + self.ctc.ctc_lo.parameters_of_others(trained)

    def _evaluation_loss(self, front, targets: Targets):
        opts, sizes = self.options, self.encoder.sizes
        full, small = sizes[-1], sizes[0]
        loss, stats = 0.0, {}
        # The full size last: ESPnet's attention plots show the last run.
        for size in sizes:
            kept = None if size == full else self.encoder.kept_layers(size)
            weight = {full: opts.loss_weight_full, small: opts.loss_weight_small}.get(
                size, opts.loss_weight_middle / max(1, len(sizes) - 2)
            )
            loss_of_size, size_stats = self._loss_of_pass(
                front, Pass(size, weight, kept), targets
            )
            loss = loss + weight * loss_of_size
            stats.update(size_stats)
        return loss, stats

    def selection_stats(self) -> dict[str, float]:
        """What an epoch reports of the selection; see docs/options.md."""
        margin = self.tracker.score_margin(self.encoder.scores)
        return {"score_margin": margin, "selection_swaps": float(self.tracker.swaps)}

    def _loss_of_pass(self, front, p: Pass, targets: Targets):
        """CTC (and attention) loss of one run, with statistics under its names."""
        encoder = self.encoder
        out = encoder.run_layers(
            front, kept=p.kept, gates=p.gates, closed=p.closed, faint=p.faint,
            dropped=p.dropped, drop_rate=p.drop_rate, ctc=ctc_of_size(self.ctc, p.size),
        )  # fmt: skip
        text, text_lengths, lengths = targets[:3]
        if self.postencoder is not None:
            out, lengths = self.postencoder(out, lengths)
        ctc_lengths = lengths, text_lengths
        if self.ctc.ctc_type == "builtin" and self.postencoder is None:
            # ESPnet and torch read them on the CPU, and would wait for each of them.
            ctc_lengths = targets.frames_cpu, targets.text_lengths_cpu
        ctc = ctc_of_size(self.ctc, p.size)
        loss = ctc(out, ctc_lengths[0], text, ctc_lengths[1])
        stats = {"loss_ctc": loss.detach()}
        if not self.training and self.error_calculator is not None:
            best = ctc.argmax(out).detach().cpu()
            cer_ctc = self.error_calculator(best, text.cpu(), is_ctc=True)
            stats["cer_ctc"] = float("nan") if cer_ctc is None else cer_ctc
        if self.ctc_weight != 1.0:
            loss_att, acc, cer, wer = attention_loss(self, out, lengths, text, text_lengths)
            loss = self.ctc_weight * loss + (1 - self.ctc_weight) * loss_att
            stats.update(loss_att=loss_att.detach(), acc=acc)
            if not self.training and self.error_calculator is not None:
                rates = {"cer": cer, "wer": wer}
                stats.update({name: rates[name] for name in self.error_calculator.names})
        return loss, {self._name_at(p.size, name): value for name, value in stats.items()}

    def names_of_stats(self, training: bool, with_decoder: bool | None = None) -> set[str]:
        """Names of all that :meth:`forward` reports, in some updates or evaluations.

        Args:
            training: False for those of evaluation.
            with_decoder: as if the model had one; None: as it is.
        """
        names = self._names_of_pass(training, with_decoder)
        found = {self._name_at(size, name) for size in self.encoder.sizes for name in names}
        found |= {"loss", "stage"}
        if training:
            found.add("layers_small")
            if self.selector.needs_travel:
                found.add("loss_sparsity")
        return found

    def _names_of_pass(self, training: bool, with_decoder: bool | None = None) -> list[str]:
        """What :meth:`_loss_of_pass` tells, without its size."""
        rates = not training and self.error_calculator is not None
        names = ["loss_ctc"] + (["cer_ctc"] if rates else [])
        if self.ctc_weight != 1.0 if with_decoder is None else with_decoder:
            names += ["loss_att", "acc"] + (self.error_calculator.names if rates else [])
        return names

    def _name_at(self, size: int, name: str) -> str:
        return name if size == self.encoder.num_layers else f"{name}_size{size}"

    def before_step(self) -> None:
        """Leave alone what this update did not train (optimizer's pre-step hook).

        A zero gradient, which DDP needs, would still be moved by momentum and
        weight decay.
        """
        for p in self._idle_parameters(int(self.state.updates)):
            p.grad = None

    def after_step(self) -> None:
        """Advance the selection (optimizer's post-step hook)."""
        stage = self.stage
        self.tracker.after_step(self.encoder.scores)
        if self.stage > stage and self.options.middle_from_full:
            # Stage 1 has not trained them; [DEVIATION] the published ones start at random.
            self.ctc.ctc_lo.copy_full_to(self.encoder.sizes[1:-1])


def check_arguments(values: Mapping[str, Any]) -> None:
    """Refuse what no supernet can be trained with.

    Args:
        values: what ESPnet's ASR task builds the model of: modules, and ``model_conf``.

    Raises:
        ConfigError: naming the key, its value and what would be right.
    """
    if not isinstance(values["encoder"], SupernetEncoder):
        raise ConfigError(
            "model: des needs a supernet encoder, such as encoder: des_conformer"
        )
    if values.get("joint_network") is not None:
        raise ConfigError("model: des has no transducer: leave out decoder: transducer")
    if isinstance(values.get("decoder"), LinearDecoder):
        raise ConfigError("model: des has no classifier: leave out decoder: linear")
    weight = values.get("ctc_weight", 0.5)
    if not is_number(weight) or not 0.0 < weight <= 1.0:
        raise ConfigError(
            f"model_conf: ctc_weight: {weight!r} must be above 0 and at most 1 (1.0: CTC "
            "only); the sizes have CTC output layers"
        )
    if weight < 1.0 and values.get("decoder") is None:
        raise ConfigError(
            f"model_conf: ctc_weight: {weight!r} leaves a part of the loss to a decoder, "
            "and there is none: set it to 1.0 (CTC only), or give decoder: transformer"
        )
    for key in ("interctc_weight", "aux_ctc"):
        if values.get(key):
            raise ConfigError(
                f"model_conf: {key}: {values[key]!r} cannot be used with model: des; "
                "every size has a CTC loss of its own"
            )
    normalize = values.get("normalize")
    for name, value in normalize.named_buffers() if normalize is not None else ():
        if not value.isfinite().all():
            raise ConfigError(
                f"normalize_conf: the {name} of {normalize} is NaN or infinite: audio that "
                "is no number was in the statistics; leave it out and collect them again"
            )
