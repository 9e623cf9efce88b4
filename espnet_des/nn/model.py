"""``model: des``: the losses of both stages over a supernet encoder.

Source: Xu et al., Interspeech 2024, sections 3 and 4. Stage 1 learns the layer
scores with the full and the smallest size; stage 2 trains the chosen sizes by
the sandwich rule: the full, the smallest and one middle size per update.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy
import torch

from espnet2.asr.espnet_model import ESPnetASRModel, autocast_type
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet_des.errors import ConfigError
from espnet_des.espnet_api import extract_features, leave_to_the_ranks
from espnet_des.method.options import SelectionOptions
from espnet_des.method.passes import (
    Pass,
    on_part_of_batch,
    passes_of_stage_1,
    passes_of_stage_2,
)
from espnet_des.method.sizes import BUDGETS
from espnet_des.method.state import METHOD_NAMES
from espnet_des.method.tracker import SelectionTracker
from espnet_des.nn.backward import BackwardPerPass
from espnet_des.nn.batch_norm import check_statistics, of_full_size
from espnet_des.nn.distillation import (
    Distillation,
    Logits,
    as_teacher,
    said_by,
    with_distillation,
)
from espnet_des.nn.front_end import Subsampled
from espnet_des.nn.losses import (
    CTC_BLANK,
    ErrorRates,
    Labels,
    Outputs,
    Targets,
    losses_of_pass,
    names_of_losses,
)
from espnet_des.nn.model_conf import can_have_exits, check_arguments, check_own_losses
from espnet_des.nn.output_layers import SizedLinear, ctc_of_size
from espnet_des.nn.own_weights import check_own_weights
from espnet_des.nn.unusable import UnusableUtterances, frames_of_ctc
from espnet_des.nn.waveforms import mirrored_samples
from espnet_des.utils.signature import merge_signature


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


@merge_signature(SelectionOptions)
@merge_signature(ESPnetASRModel)
class DESModel(ESPnetASRModel):
    """ESPnet's CTC, hybrid CTC/attention or transducer model over a supernet encoder.

    Args:
        **kwargs: the settings of :class:`SelectionOptions` and the arguments
            of ESPnetASRModel.
    """

    ctc: Any  # ESPnet's; None with ctc_weight: 0.0
    error_calculator: Any  # ESPnet's; None where nothing is reported
    interctc_weight: float

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
        check_own_losses(own, kwargs)
        super().__init__(**kwargs)
        self.options = with_distillation(SelectionOptions.of_preset(**own), self)
        self.exits = list(self.encoder.interctc_layer_idx) if self.interctc_weight else []
        weight = self.options.exit_weight  # refused where there are none
        if weight is None and can_have_exits(self) and not self.exits:
            weight = self.options.DEFAULT_EXITS
        if weight:
            self.exits = self.encoder.blocks_at_thirds()
            self.interctc_weight = weight if self.exits else 0.0
        # Where each layer costs 1 there is nothing to add up.
        is_counted = not self.encoder.has_components and self.options.budget == "layers"
        costs = None if is_counted else self.state.costs
        self.selector = self.options.selector(self.encoder.num_units, costs)
        self.encoder.rank_by(self.selector)
        # Fails now, before any training, where the lists cannot belong together.
        num_layers, smallest = self.encoder.num_layers, self.encoder.sizes[0]
        self.options.zeroed_per_iteration(num_layers, smallest)
        if self.options.updates_per_iteration is not None:
            self.options.resolve(num_layers, smallest, None)
        self.state.method.fill_(METHOD_NAMES.index(self.options.method))
        self.state.budget.fill_(BUDGETS.index(self.options.budget))
        if self.ctc is not None:
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
        # In a tuple: no part of this model, its state or its gradients.
        self._teacher: tuple[ESPnetASRModel, ...] = ()
        if self.error_calculator is not None and kwargs.get(
            "transducer_multi_blank_durations"
        ):
            self.error_calculator.idx_blank = CTC_BLANK
        for name in ("error_calculator", "error_calculator_trans"):
            if getattr(self, name, None) is not None:
                setattr(self, name, ErrorRates(getattr(self, name)))

    def start_scores(self) -> None:
        """Set scores and output layers to what training starts from."""
        with torch.no_grad():
            self.selector.start(self.encoder.scores)
        if self.encoder.own is not None:
            self.encoder.own.start()
        if self.ctc is not None:
            self.ctc.ctc_lo.copy_full_to(self.encoder.sizes)

    # What ESPnet calls after --init has filled the parameters in its own way.
    espnet_initialization_fn = start_scores

    @property
    def state(self):
        return self.encoder.selection

    @property
    def stage(self) -> int:
        return 2 if self.state.is_frozen else 1

    def learn_from(self, teacher: ESPnetASRModel) -> None:
        """Let a trained model teach all sizes (``distillation_weight``), on the same device."""
        self._teacher = (as_teacher(teacher),)

    def set_size(self, size: int) -> None:
        """Recognise at this size from now on: its layers, its output layer."""
        self.encoder.set_size(size)

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """As in torch, but a supernet's checkpoint must be whole.

        ESPnet's inference loads with strict=False: without this check, weights
        that are missing would silently stay random.
        """
        mine = self.state_dict()
        if "encoder.selection.updates" in state_dict:
            check_statistics(state_dict, mine)
            check_own_weights(state_dict, mine)
        # Sizes without statistics of their own, in an older file, have the full size's.
        self.state.check_whole(state_dict, list(of_full_size(mine)))
        return super().load_state_dict(state_dict, strict, assign)

    # ---- one update -------------------------------------------------------

    def passes(self, t: int, scores: torch.Tensor | None = None) -> list[Pass]:
        """What update t runs, in the order in which it runs.

        Args:
            scores: of the layers, where they are on the CPU already.
        """
        encoder, options = self.encoder, self.options
        if self.stage == 2:
            middle = self.middle_size(t)
            return passes_of_stage_2(options, encoder.sizes, encoder.kept_units, middle)
        if scores is None:
            scores = encoder.scores.detach().cpu()
        return passes_of_stage_1(
            options, self.selector, self.state.get_schedule(), t, encoder.sizes,
            encoder.scores, scores, self.small_size(t),
        )  # fmt: skip

    def small_size(self, t: int) -> int:
        """Size of the small pass of update t of stage 1."""
        if not self.selector.draws_size:
            schedule = self.state.get_schedule()
            return self.selector.num_kept(schedule, t, self.encoder.num_layers)
        smaller = self.encoder.all_sizes[:-1]
        return smaller[self._generator(t, 2).integers(len(smaller))]

    def middle_size(self, t: int) -> int | None:
        """The middle size of update t: drawn, and the same on every rank."""
        middles = self.encoder.sizes[1:-1]
        return middles[self._generator(t).integers(len(middles))] if middles else None

    def _generator(self, t: int, *purpose: int) -> numpy.random.Generator:
        """What update t is drawn with: after a resume it draws the same."""
        seed = int(self.state.seed)
        return numpy.random.default_rng((*([seed] if seed >= 0 else []), t, *purpose))

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
            **kwargs: of the batch; the labels of ``aux_ctc`` are used.

        Returns:
            Loss, statistics, number of utterances.
        """
        front, targets, scores, scale = self._read(
            speech, speech_lengths, text, text_lengths, utt_id, loss_scale, kwargs
        )
        if self.training:
            said = [
                said_by(
                    teacher, *self._as_long_as_the_stft_needs(speech, speech_lengths), targets
                )
                for teacher in self._teacher
            ]
            loss, stats = self._training_loss(front, targets, scores, scale, *said)
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

    def losses_with(
        self, sets: Iterable[Sequence[int]], speech: torch.Tensor,
        speech_lengths: torch.Tensor, text: torch.Tensor, text_lengths: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        """Losses of a batch at full size, but with these units only, ``(number of sets,)``.

        Args:
            sets: numbers of units, ascending.
            **kwargs: as the others, of :meth:`forward`.
        """
        front, targets, *_ = self._read(
            speech, speech_lengths, text, text_lengths, (), None, kwargs
        )
        full = self.encoder.sizes[-1]
        passes = (Pass(full, 1.0, kept=list(units)) for units in sets)
        return torch.stack([self._loss_of_pass(front, p, targets)[0] for p in passes])

    def _read(
        self, speech, speech_lengths, text, text_lengths, utt_id: Sequence[str],
        loss_scale: torch.Tensor | None, more: Mapping[str, torch.Tensor],
    ) -> tuple[Subsampled, Targets, torch.Tensor, float]:  # fmt: skip
        """What the passes of an update share; scores and loss_scale come on the CPU."""
        front = self.features(speech, speech_lengths)
        frames = self.encoder.output_lengths(front.lengths)
        needed = frames_of_ctc(text, text_lengths)
        # All that Python decides by: the passes then run without waiting for the device.
        if loss_scale is None or torch.get_autocast_dtype("cuda") != torch.float16:
            loss_scale = torch.ones((), device=frames.device)  # bf16 needs none
        frames_cpu, text_lengths_cpu, needed_cpu, scores, scale = to_cpu(
            frames, text_lengths, needed, self.encoder.scores, loss_scale
        )
        if self.ctc is not None:
            self.unusable.tell(utt_id, frames_cpu, needed_cpu)
        text = text.masked_fill(text == -1, self.ignore_id)
        text = text[:, : text_lengths_cpu.max()]
        targets = Targets(
            text,
            text_lengths,
            frames,
            text_lengths_cpu,
            frames_cpu,
            self._labels_of_exits(more),
        )
        return front, targets, scores, scale.item()

    def _labels_of_exits(self, batch: Mapping[str, torch.Tensor]) -> dict[int, Labels]:
        """What the exits of ``aux_ctc`` are to say, of this batch."""
        found = {}
        for number, name in (self.aux_ctc or {}).items():
            if name not in batch or f"{name}_lengths" not in batch:
                raise ConfigError(
                    f"model_conf: aux_ctc: {self.aux_ctc!r} takes the labels of block {number} "
                    f"from {name!r}, which the data have not: give them a file for it, as in "
                    f"--train_data_path_and_name_and_type FILE,{name},text, with "
                    f"--aux_ctc_tasks {name} and --allow_variable_data_keys true"
                )
            found[int(number)] = Labels(batch[name], batch[f"{name}_lengths"])
        return found

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

    def _training_loss(
        self, front, targets: Targets, scores, scale: float, teacher: Logits | None = None
    ):
        schedule = self.state.get_schedule()
        if schedule is None:
            raise RuntimeError(
                "this supernet has no schedule yet: train it with espnet2.bin.asr_train "
                "through python3 -m espnet_des, whose Trainer sets it"
            )
        t = int(self.state.updates)
        stats: dict[str, Any] = {}
        sums = BackwardPerPass(front.x, self._after_the_front_end(), scale)
        passes = self.passes(t, scores)
        *earlier, last = on_part_of_batch(passes, front.x.size(0), self._generator(t, 1))
        weight = self.options.distillation_at(schedule, t)
        lesson = Distillation(weight, teacher) if weight else None
        for p in earlier:
            read = front._replace(x=sums.front)
            loss, size_stats = self._loss_of_pass(read, p, targets, lesson)
            sums.add(p.weight * loss)
            stats.update(size_stats)
        small = self.small_size(t) if self.stage == 1 else self.encoder.sizes[0]
        if self.stage == 1:
            penalty = self.selector.penalty(self.encoder.scores, schedule, t, small)
            if penalty is not None:
                sums.add(self.selector.penalty_weight(schedule, t) * penalty)
                stats[str(self.selector.penalty_name)] = penalty.detach()
        stats["layers_small"] = float(small)
        loss, size_stats = self._loss_of_pass(front, last, targets, lesson)
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
        """Of sizes without a loss what is theirs alone, and scores that nothing teaches."""
        sizes = self.encoder.sizes
        trained, idle = [sizes[0], sizes[-1]], []
        middle = self.middle_size(t) if self.stage == 2 else None
        if middle is not None:
            trained.append(middle)
        if self.stage == 2 or not self.selector.learns:
            idle.append(self.encoder.scores)
        idle += self.encoder.idle_own_weights(trained)
        return (
            idle if self.ctc is None else idle + self.ctc.ctc_lo.parameters_of_others(trained)
        )

    def _evaluation_loss(self, front, targets: Targets):
        opts, sizes = self.options, self.encoder.sizes
        full, small = sizes[-1], sizes[0]
        loss, stats = 0.0, {}
        # The full size last: ESPnet's attention plots show the last run.
        for size in sizes:
            kept = None if size == full else self.encoder.kept_units(size)
            weight = {full: opts.loss_weight_full, small: opts.loss_weight_small}.get(
                size, opts.loss_weight_middle / max(1, len(sizes) - 2)
            )
            loss_of_size, size_stats = self._loss_of_pass(
                front, Pass(size, weight, kept), targets
            )
            if self.stage == 2 or size in (full, small):  # as in training
                loss = loss + weight * loss_of_size
            stats.update(size_stats)
        return loss, stats

    def selection_stats(self) -> dict[str, float]:
        """What an epoch reports of the selection; see docs/options.md."""
        margin = self.tracker.score_margin(self.encoder.scores)
        return {"score_margin": margin, "selection_swaps": float(self.tracker.swaps)}

    def _loss_of_pass(
        self, front: Subsampled, p: Pass, targets: Targets, lesson: Distillation | None = None
    ):
        """Loss of one run, with statistics under its names.

        Args:
            front, targets: of the whole batch.
            lesson: where the sizes learn from the full one.
        """
        rows = None
        if p.rows is not None:
            rows = p.rows.to(front.x.device, non_blocking=True)
            front, targets = front.of_utterances(rows), targets.of_utterances(rows, p.rows)
        hidden: list[torch.Tensor] | None = [] if self._exits_of(p.size) else None
        ctc = None if self.ctc is None else ctc_of_size(self.ctc, p.size)
        self.encoder.use_statistics_of(p.size)
        out = self.encoder.run_layers(
            front, kept=p.kept, gates=p.gates, closed=p.closed, faint=p.faint,
            dropped=p.dropped, drop_rate=p.drop_rate, hidden=hidden,
            ctc=ctc, blocks=self.encoder.blocks_for(p.size),
        )  # fmt: skip
        exits = self.encoder.exits(hidden, self.exits) if hidden else []
        if self.postencoder is not None:
            out, frames = self.postencoder(out, targets.frames)
            targets = targets._replace(frames=frames, frames_cpu=frames.cpu())
        outputs = Outputs(out, exits)
        if lesson is None:
            loss, stats = losses_of_pass(self, ctc, outputs, targets)
        else:
            loss, stats = lesson.losses_of_pass(self, ctc, outputs, targets, rows)
        return loss, {self._name_at(p.size, name): value for name, value in stats.items()}

    def names_of_stats(self, training: bool, with_decoder: bool | None = None) -> set[str]:
        """Names of all that :meth:`forward` reports, in some updates or evaluations.

        Args:
            training: False for those of evaluation.
            with_decoder: as if the model had one; None: as it is.
        """
        found = {
            self._name_at(size, name)
            for size in self.encoder.sizes
            for name in names_of_losses(self, training, self._exits_of(size), with_decoder)
        }
        found |= {"loss", "stage"}
        if training:
            if self.options.distillation_weight:
                pupils = self.encoder.sizes[: None if self.options.teacher_config else -1]
                found |= {self._name_at(z, "loss_distillation") for z in pupils}
            found.add("layers_small")
            if self.selector.penalty_name:
                found.add(self.selector.penalty_name)
        return found

    def _exits_of(self, size: int) -> list[int]:
        """Numbers of the blocks whose exits have a loss in the passes of a size.

        They are blocks of the full encoder, and mean nothing of a smaller one.
        """
        return self.exits if size == self.encoder.num_layers else []

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
        if self.stage == stage:
            return
        # What stage 1 has not trained.
        self.encoder.start_statistics()
        if self.options.middle_from_full and self.ctc is not None:
            # [DEVIATION] the published ones start at random.
            self.ctc.ctc_lo.copy_full_to(self.encoder.sizes[1:-1])
