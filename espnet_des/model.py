"""``model: des``: the losses of both stages over a supernet encoder.

Source: Xu et al., Interspeech 2024, sections 3 and 4. Stage 1 learns the layer
scores with the full and the smallest size; stage 2 trains the chosen sizes by
the sandwich rule: the full, the smallest and one middle size per update.
"""

import inspect
from typing import Dict, List, Optional, Tuple

import numpy
import torch

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet_des.backward import BackwardPerPass
from espnet_des.features import extract_features
from espnet_des.heads import SizedLinear
from espnet_des.layered import Subsampled
from espnet_des.model_keys import check_arguments
from espnet_des.options import ConfigError, SelectionOptions
from espnet_des.passes import Pass, passes_of_stage_1, passes_of_stage_2
from espnet_des.signature import merge_signature
from espnet_des.skipped import SkippedUpdates
from espnet_des.state import METHOD_NAMES
from espnet_des.targets import Targets, to_cpu
from espnet_des.tracker import SelectionTracker
from espnet_des.unusable import ErrorRates, UnusableUtterances, frames_of_ctc


@merge_signature(SelectionOptions)
@merge_signature(ESPnetASRModel)
class DESModel(ESPnetASRModel):
    """ESPnet's CTC or hybrid CTC/attention model over ``des_conformer``.

    Args:
        **kwargs: the settings of :class:`SelectionOptions` and the arguments
            of ESPnetASRModel.
    """

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
        self.encoder.selector = self.selector = self.options.selector(self.encoder.num_layers)
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
        self._ddp_params_and_buffers_to_ignore = [
            f"encoder.selection.{name}" for name, _ in self.state.named_buffers()
        ]
        self.start_scores()
        self.tracker = SelectionTracker(self.encoder, self.options)
        self.unusable = UnusableUtterances()
        if self.error_calculator is not None:
            self.error_calculator = ErrorRates(self.error_calculator)
        self.skipped = SkippedUpdates(self.options.max_skipped_updates)
        # The Trainer's GradScaler, which it tells where it has one.
        self.scaler = None
        # Length of the run, which its Trainer tells; None where it is not known.
        self.updates_per_epoch = self.total_updates = None

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

    def passes(self, t: int, scores: Optional[torch.Tensor] = None) -> List[Pass]:
        """What update t runs, in the order in which it runs.

        Args:
            scores: of the layers, where they are on the CPU already.
        """
        if self.stage == 1:
            if scores is None:
                scores = self.encoder.scores.detach().cpu()
            return passes_of_stage_1(self.encoder, self.options, self.selector, t, scores)
        return passes_of_stage_2(self.encoder, self.options, self.middle_size(t))

    def middle_size(self, t: int) -> Optional[int]:
        """The middle size of update t: uniform, and the same on every rank."""
        middles = self.encoder.sizes[1:-1]
        if not middles:
            return None
        return middles[numpy.random.default_rng(t).integers(len(middles))]

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs,
    ) -> Tuple[torch.Tensor, Dict[str, torch.Tensor], torch.Tensor]:
        """Loss of one update in training, of every size in evaluation.

        Args:
            speech: ``(batch, samples, ...)``.
            speech_lengths: ``(batch,)``.
            text: token ids ``(batch, length)``.
            text_lengths: ``(batch,)``.

        Returns:
            Loss, statistics, number of utterances.
        """
        if self.training:
            self.skipped.before_batch(int(self.state.updates), kwargs.get("utt_id", ()))
        front = self.features(speech, speech_lengths)
        frames = front.mask.squeeze(1).sum(1)
        needed = frames_of_ctc(text, text_lengths)
        # All that Python decides by: the passes then run without waiting for the device.
        frames_cpu, text_lengths_cpu, needed_cpu, scores, scale = to_cpu(
            frames, text_lengths, needed, self.encoder.scores, self._loss_scale(frames.device)
        )
        self.unusable.tell(kwargs.get("utt_id"), frames_cpu, needed_cpu)
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

    def features(self, speech: torch.Tensor, speech_lengths: torch.Tensor) -> Subsampled:
        """Everything before the layers, once for all sizes."""
        return extract_features(self, speech, speech_lengths)

    def _training_loss(self, front, targets: Targets, scores, scale: float):
        schedule = self.state.get_schedule()
        if schedule is None:
            raise RuntimeError(
                "this supernet has no schedule yet: train it with espnet2.bin.asr_train "
                "through python3 -m espnet_des, whose Trainer sets it"
            )
        t = int(self.state.updates)
        stats = self._missing_stats()
        sums = BackwardPerPass(front.x, self._after_the_front_end(), scale)
        for p in self.passes(t, scores):
            loss, size_stats = self._loss_of_pass(front._replace(x=sums.front), p, targets)
            sums.add(p.weight * loss)
            stats.update(size_stats)
        if self.stage == 1:
            gap = self.selector.sparsity_gap(self.encoder.scores, schedule, t)
            if gap is not None:
                sums.add(self.options.sparsity_weight * gap)
                stats["loss_sparsity"] = gap.detach()
            small = self.selector.num_kept(schedule, t, self.encoder.num_layers)
        else:
            small = self.encoder.sizes[0]
        stats["layers_small"] = float(small)
        return sums.loss(), stats

    def _loss_scale(self, device: torch.device) -> torch.Tensor:
        """What keeps the gradients of fp16 from vanishing; bf16 needs nothing."""
        one = torch.ones((), device=device)
        if self.scaler is None or torch.get_autocast_dtype("cuda") != torch.float16:
            return one
        return self.scaler.scale(one)

    def _after_the_front_end(self) -> List[torch.nn.Parameter]:
        """Parameters that a pass uses, of what :meth:`features` has not used."""
        front = (self.frontend, self.specaug, self.normalize, self.preencoder, self.encoder.embed)
        used = {id(p) for module in front if module is not None for p in module.parameters()}
        return [p for p in self.parameters() if id(p) not in used]

    def _idle_parameters(self, t: int) -> List[torch.nn.Parameter]:
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
        stats["score_margin"] = self.tracker.score_margin()
        stats["selection_swaps"] = float(self.tracker.swaps)
        stats["skipped_updates"] = float(self.skipped.total(int(self.state.updates)))
        return loss, stats

    def _loss_of_pass(self, front, p: Pass, targets: Targets):
        """CTC (and attention) loss of one run, with statistics under its names."""
        encoder, before = self.encoder, self.encoder.size
        out = encoder.run_layers(
            front, kept=p.kept, gates=p.gates, closed=p.closed, faint=p.faint,
            dropped=p.dropped, drop_rate=p.drop_rate,
        )  # fmt: skip
        text, text_lengths, lengths = targets[:3]
        if self.postencoder is not None:
            out, lengths = self.postencoder(out, lengths)
        ctc_lengths = lengths, text_lengths
        if self.ctc.ctc_type == "builtin" and self.postencoder is None:
            # ESPnet and torch read them on the CPU, and would wait for each of them.
            ctc_lengths = targets.frames_cpu, targets.text_lengths_cpu
        encoder.set_size(p.size)  # chooses the output layer
        try:
            loss, cer_ctc = self._calc_ctc_loss(out, ctc_lengths[0], text, ctc_lengths[1])
        finally:
            encoder.set_size(before)
        stats = {"loss_ctc": loss.detach()}
        if not self.training and self.error_calculator is not None:
            stats["cer_ctc"] = float("nan") if cer_ctc is None else cer_ctc
        if self.ctc_weight != 1.0:
            # A copy: ESPnet changes the lengths in place with lang_token_id.
            loss_att, acc, cer, wer = self._calc_att_loss(
                out, lengths, text, text_lengths.clone()
            )
            loss = self.ctc_weight * loss + (1 - self.ctc_weight) * loss_att
            stats.update(loss_att=loss_att.detach(), acc=acc)
            if cer is not None or wer is not None:
                stats.update(cer=cer, wer=wer)
        if p.size != encoder.num_layers:
            stats = {f"{key}_size{p.size}": value for key, value in stats.items()}
        return loss, stats

    def _missing_stats(self) -> Dict[str, float]:
        """Keys of what only some updates have; ESPnet ranks epochs by any key."""
        names = ["loss_ctc"] + (["loss_att", "acc"] if self.ctc_weight != 1.0 else [])
        stats = {
            f"{name}_size{size}": float("nan")
            for size in self.encoder.sizes[1:-1]
            for name in names
        }
        if self.selector.needs_travel:
            stats["loss_sparsity"] = float("nan")
        return stats

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
        self.tracker.after_step()
        if self.stage > stage and self.options.middle_from_full:
            # Stage 1 has not trained them; [DEVIATION] the published ones start at random.
            self.ctc.ctc_lo.copy_full_to(self.encoder.sizes[1:-1])
