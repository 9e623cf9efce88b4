"""What of ESPnet and torch is leaned upon that they do not promise, each with its reason.

Three kinds stand here, and nowhere else in the package:

- functions for what has a private name, or must be replaced while something runs;
- ``OVERRIDES``: private methods of torch that classes of the package override;
- ``ASSUMPTIONS``: what is taken for granted of public names.

``tests/test_espnet_api*.py`` has a test named after each of them: with a release that
changes one, that test fails, and says by its name where to look.

Nothing is imported before it is needed: modules that must be quick may import this one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from espnet2.asr.espnet_model import ESPnetASRModel

# ---- ESPnet ------------------------------------------------------------------------

CHECKPOINT = "checkpoint.pth"  # what a training resumes from


def epoch_file(epoch: int) -> str:
    """Name of the weights of an epoch, beside the checkpoint; links point to it."""
    return f"{epoch}epoch.pth"


def read_tokens(file: str | Path) -> list[str]:
    """The tokens of a list, as ESPnet writes them into ``config.yaml``."""
    with open(file, encoding="utf-8") as lines:
        return [line.rstrip() for line in lines]


def extract_features(
    model: ESPnetASRModel, speech: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model's front end gives, before augmentation and normalisation.

    ESPnet's own name of it is private, ``_extract_feats``. ``collect_feats`` is the
    public method around it, made for the statistics of a recipe's stage 10; it also
    takes the texts of the batch, which it does not look at.

    Args:
        speech: ``(batch, samples, ...)``.
        lengths: in samples, ``(batch,)``.

    Returns:
        Features ``(batch, frames, dim)`` and their lengths ``(batch,)``.
    """
    found = model.collect_feats(speech, lengths, None, None)
    return found["feats"], found["feats_lengths"]


def without_exits(encoded: Any) -> torch.Tensor:
    """The output of an encoder, ``(batch, time, dim)``.

    With ``interctc_layer_idx`` an encoder gives a tuple of it and the outputs of those blocks.
    """
    return encoded[0] if isinstance(encoded, tuple) else encoded


class AttentionLoss(NamedTuple):
    """Of the decoder; the error rates are None in training, or where not asked for."""

    loss: torch.Tensor
    accuracy: float
    cer: float | None
    wer: float | None


def attention_loss(
    model: ESPnetASRModel,
    encoded: torch.Tensor,
    lengths: torch.Tensor,
    text: torch.Tensor,
    text_lengths: torch.Tensor,
) -> AttentionLoss:
    """The loss of a hybrid model's decoder on one output of the encoder.

    ESPnet computes it within ``forward``, on the output of the one size that it knows,
    by the private ``_calc_att_loss``. Without it, its decoder's targets, loss and error
    rates would have to be written again.

    Args:
        encoded: ``(batch, time, dim)``.
        lengths: of it, ``(batch,)``.
        text: token ids ``(batch, length)``, ``model.ignore_id`` on padding.
        text_lengths: ``(batch,)``.
    """
    # A copy: ESPnet changes the lengths in place with lang_token_id.
    return AttentionLoss(*model._calc_att_loss(encoded, lengths, text, text_lengths.clone()))


class TransducerLoss(NamedTuple):
    """Of the joint network; the error rates are None in training, or where not asked for."""

    loss: torch.Tensor
    cer: float | None
    wer: float | None


def transducer_loss(
    model: ESPnetASRModel, encoded: torch.Tensor, lengths: torch.Tensor, text: torch.Tensor
) -> TransducerLoss:
    """The loss of a transducer's prediction and joint networks on one output of the encoder.

    ESPnet computes it within ``forward``, on the output of the one size that it knows,
    by the private ``_calc_transducer_loss``. Its losses want outputs that are as long as
    the longest utterance, and a frame of each.

    Args:
        encoded: ``(batch, time, dim)``.
        lengths: of it, ``(batch,)``; read one by one, so best on the CPU.
        text: token ids ``(batch, length)``, ``model.ignore_id`` on padding.
    """
    lengths = lengths.clamp(min=1)
    found = model._calc_transducer_loss(encoded[:, : int(lengths.max())], lengths, text)
    return TransducerLoss(found[0].reshape(()), *found[1:])


WARP = "warprnnt_pytorch"


@contextlib.contextmanager
def own_transducer_losses(rnnt: type, multi_blank: type) -> Iterator[None]:
    """While it lasts, a transducer that is built takes these classes for its loss.

    ESPnetASRModel imports them by name when it is constructed; nothing hands it others.

    Args:
        rnnt: for ``warprnnt_pytorch.RNNTLoss``, where that package is not installed.
        multi_blank: for ESPnet's ``MultiblankRNNTLossNumba``.
    """
    from espnet2.asr.transducer.rnnt_multi_blank import rnnt_multi_blank

    with _replaced(rnnt_multi_blank, "MultiblankRNNTLossNumba", multi_blank):
        if WARP in sys.modules or importlib.util.find_spec(WARP) is not None:
            yield
            return
        stand_in: Any = types.ModuleType(WARP)
        stand_in.RNNTLoss = rnnt
        sys.modules[WARP] = stand_in
        try:
            yield
        finally:
            del sys.modules[WARP]


@contextlib.contextmanager
def own_reporter(factory: Callable[[], Any]) -> Iterator[None]:
    """While it lasts, ESPnet's Trainer works with the Reporter that ``factory`` makes.

    ``Trainer.run`` makes it by the name ``Reporter`` of its module; nothing hands it one,
    and no class method stands between. Only whole epochs of stage 2 may be ranked, though,
    and it is the Reporter that ranks.
    """
    import espnet2.train.trainer

    with _replaced(espnet2.train.trainer, "Reporter", factory):
        yield


# ---- torch -------------------------------------------------------------------------


@contextlib.contextmanager
def own_save(save: Callable) -> Iterator[None]:
    """While it lasts, ``torch.save`` is ``save``.

    ESPnet's Trainer writes checkpoints, epochs and averages in the middle of ``run``, by
    ``torch.save`` to their final names: a kill in that moment loses the training.
    """
    import torch

    with _replaced(torch, "save", save):
        yield


def leave_to_the_ranks(model: torch.nn.Module, names: Iterable[str]) -> None:
    """Keep DDP from moving and sending these parameters and buffers of a model.

    DDP broadcasts the buffers before every forward, by way of the GPU. Those of the
    selection stay on the CPU, and are equal on all ranks by themselves. torch has no public
    way to say so; this attribute is what DDP reads, and what its own, private setter sets.

    Args:
        names: as in ``model.named_buffers()``.
    """
    model._ddp_params_and_buffers_to_ignore = list(names)  # type: ignore[assignment]  # no tensor


def was_left_out(optimizer: torch.optim.Optimizer) -> bool:
    """True within a step that a fused optimizer leaves out: its gradients are not finite.

    AMP's GradScaler calls the step of others only where it is taken, but that of fused
    optimizers always (hooks with it), with ``found_inf`` set on the optimizer.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found.item())


def cpu_flash_attention() -> Any:
    """The operator of attention on the CPU (``encoder_conf: use_sdpa``).

    torch's table of MACs lacks it, and an entry of one's own must name the operator,
    which is private; the public function for attention only chooses among such.
    """
    import torch

    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


# The gradients of all parameters, changed in one call as torch's optimizers do: one by
# one, the launches of a thousand kernels would take longer than the arithmetic. torch has
# these for private use only.


def multiply_all(tensors: list[torch.Tensor], factor: torch.Tensor) -> None:
    """``tensor *= factor`` for each, in place."""
    import torch

    torch._foreach_mul_(tensors, factor)


def shallow_copy(module: Any) -> Any:
    """A module that shares all parameters and submodules, until another is put in."""
    new = module.__class__.__new__(module.__class__)
    new.__dict__.update(module.__dict__)
    for name in ("_parameters", "_modules"):
        new.__dict__[name] = dict(module.__dict__[name])
    return new


def put_parameter(module: Any, name: str, value: torch.Tensor | None) -> None:
    """Let a copy compute with a tensor that is no parameter, and has a graph."""
    module._parameters[name] = value


def put_module(module: Any, name: str, other: torch.nn.Module) -> None:
    """Let a copy compute with another module; the one it was copied of stays as it is."""
    module._modules[name] = other


def add_to_all(tensors: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    """``tensor += other`` for each pair, in place."""
    import torch

    torch._foreach_add_(tensors, others)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


# ---- what is overridden, and what is assumed ---------------------------------------


class Assumption(NamedTuple):
    """Something that a release may change.

    Attributes:
        name: of its test, after ``test_``; of an override, the method's.
        reason: what it is, and what needs it.
    """

    name: str
    reason: str


# Methods of torch.nn.Module; its own modules override them, too.
OVERRIDES = (
    Assumption(
        "_load_from_state_dict",
        "the selection of another model must not be loaded, nor a part of it; the public hook "
        "in front of loading (register_load_state_dict_pre_hook) cannot keep it from being so",
    ),
    Assumption(
        "_apply",
        "all moves and casts of a module go through it (to, cuda, half): the selection "
        "stays on the CPU, in float64",
    ),
)

ASSUMPTIONS = (
    # The Trainer.
    Assumption(
        "trainer_has_class_methods_only",
        "what a training has of its own is in a subclass that is made for it; run reaches "
        "resume, train_one_epoch and validate_one_epoch through cls, by keyword",
    ),
    Assumption(
        "trainer_resumes_before_its_first_epoch",
        "where resume is on and there is a checkpoint.pth: a damaged one is replaced, and the "
        "schedule checked, before anything trains",
    ),
    Assumption(
        "trainer_seeds_every_epoch",
        "with seed + epoch: so a resumed training goes on as one that was never stopped",
    ),
    Assumption(
        "trainer_saves_the_checkpoint_before_the_epoch",
        "by torch.save, as model, reporter, optimizers, schedulers and scaler: a kill "
        "between the two leaves an epoch without its file, which a resume writes again",
    ),
    Assumption(
        "trainer_links_the_latest_and_the_best_epoch",
        "latest.pth and <phase>.<key>.best.pth: a resume restores both",
    ),
    Assumption(
        "trainer_keeps_the_best_epochs_only",
        "and the last: others are missed in averaging where more are to be kept later",
    ),
    Assumption(
        "trainer_asks_the_reporter_has_before_it_ranks",
        "StageReporter.has says no while there is no epoch of stage 2: no average then",
    ),
    Assumption(
        "trainer_hands_the_model_utt_id",
        "beside the batch's own keys, by keyword: for warnings that name utterances",
    ),
    Assumption(
        "trainer_leaves_out_steps_that_are_not_finite",
        "the optimizer's step, and with it its hooks: these count the updates",
    ),
    Assumption(
        "trainer_says_where_an_epoch_made_no_update",
        "train_one_epoch returns True then, and the training would end as if all were well",
    ),
    Assumption(
        "trainer_logs_epochs_as_the_recipe_reads_them",
        "the recipe's progress bar is made of two lines of the log of every epoch",
    ),
    # The Reporter, averages, schedulers.
    Assumption(
        "reporter_ranks_by_sort_epochs_and_values",
        "the best epoch, the n best and the early stop: all by way of this method, which "
        "StageReporter overrides; values are in stats[epoch][phase][key]",
    ),
    Assumption(
        "reporter_checks_early_stopping_by_the_best_epoch",
        "patience then counts from the first epoch of stage 2",
    ),
    Assumption(
        "subreporter_takes_values_of_its_own",
        "after the last batch of validation: register, then next; the others are NaN there, "
        "of which the mean takes no account",
    ),
    Assumption(
        "subreporter_fills_in_nan_without_weight",
        "of a value that a step has not, and tells all values of its stats: PresentReporter "
        "leaves out what was only filled in",
    ),
    Assumption(
        "average_sums_integers",
        "over the n best epochs, and averages floats: so all state of the selection is float",
    ),
    Assumption(
        "schedulers_step_by_batch_or_by_epoch",
        "told by two abstract classes: learning rates are summed ahead as they will be used",
    ),
    # The task.
    Assumption(
        "task_is_where_the_registry_waits_for_it",
        "espnet2.tasks.asr has ASRTask, encoder_choices and model_choices, whose classes are "
        "looked up by lower-case names when a training starts",
    ),
    Assumption(
        "task_is_extended_by_its_methods",
        "main_worker, build_model, build_dataset and build_optimizers, and the trainer that "
        "main_worker uses is an attribute",
    ),
    Assumption(
        "task_loads_models_without_strict",
        "what a file lacks stays random: check_trained looks at the file a second time",
    ),
    Assumption(
        "dataset_has_its_tables",
        "loader_dict and debug_info, and of audio the reader with the paths: bad data is "
        "refused before the training",
    ),
    Assumption(
        "initialize_calls_espnet_initialization_fn",
        "of every module that has one, after --init has filled the parameters: scores and "
        "output layers get their first values back",
    ),
    # The model.
    Assumption(
        "model_encodes_in_this_order",
        "front end, augmentation, normalisation, pre-encoder, encoder, post-encoder: the "
        "supernet runs the first four once for all sizes",
    ),
    Assumption(
        "model_has_its_parts_by_name",
        "those, and ctc, decoder, error_calculator, ids of special tokens, and the precision "
        "of its autocast",
    ),
    Assumption(
        "ctc_is_one_output_layer",
        "ctc_lo, of which loss, softmax, log_softmax and argmax are made: SizedLinear takes "
        "its place; None with ctc_weight: 0.0",
    ),
    Assumption(
        "ctc_takes_lengths_of_the_cpu",
        "with ctc_type: builtin; every pass would wait for the device otherwise",
    ),
    Assumption(
        "transducer_takes_its_loss_by_name",
        "as it is built, from warprnnt_pytorch (blank, fastemit_lambda) or ESPnet's numba "
        "kernels (blank, durations, sigma): others stand in where these cannot run",
    ),
    Assumption(
        "transducer_has_its_parts_by_name",
        "joint_network, use_transducer_decoder, and error_calculator_trans instead of "
        "error_calculator where rates are asked for",
    ),
    Assumption(
        "big_blanks_stand_before_the_blank",
        "in the token list, where the task inserts them, and so in the loss and in the search; "
        "CTC's blank is the first token all the same",
    ),
    Assumption(
        "error_rates_divide_by_the_words",
        "of the references: a batch without a word raises ZeroDivisionError, caught by name",
    ),
    Assumption(
        "beam_search_keeps_the_ctc",
        "it is built once and scores with the ctc object: a size is changed within that",
    ),
    Assumption(
        "speech2text_has_its_parts_by_name",
        "asr_model, tokenizer, device, dtype, and the two kinds of several speakers; its "
        "hypotheses are built of yseq, score, scores and states",
    ),
    Assumption(
        "tokens_become_text_by_two_classes",
        "TokenIDConverter and the tokenizer of build_tokenizer, for best-path decoding",
    ),
    Assumption(
        "unpack_names_the_files",
        "of a packed model, by the keywords of Speech2Text",
    ),
    # The Conformer and its front ends.
    Assumption(
        "conformer_block_has_its_modules_by_name",
        "feed_forward_macaron, self_attn, conv_module, feed_forward, a norm of each, "
        "concat_linear, norm_final, dropout, ff_scale: layers are run one by one",
    ),
    Assumption(
        "conformer_block_adds_its_layers_in_this_order",
        "with these scales: the same arithmetic, layer by layer",
    ),
    Assumption(
        "transformer_block_has_its_modules_by_name",
        "self_attn, feed_forward, norm1, norm2, and no norm behind them",
    ),
    Assumption(
        "multiconv_block_is_a_conformer_block",
        "with a convolutional gating as conv_module, which takes mask_pad",
    ),
    Assumption(
        "branches_are_merged_by_one_projection",
        "merge_proj of attn and cgmlp side by side, in this order; in an E-Branchformer "
        "depthwise_conv_fusion before it, a channel by itself: each has a half for each branch",
    ),
    Assumption(
        "blocks_are_dropped_by_these_encoders_only",
        "layer_drop_rate is looked at by E-Branchformer and multiconv_conformer, in the latter "
        "without exits",
    ),
    Assumption(
        "conformer_has_its_parts_by_name",
        "embed (the positions last), encoders (made of blocks), after_norm, and the exits",
    ),
    Assumption(
        "conv_module_has_its_parts_by_name",
        "its norm is replaced by conv_norm; in ONNX its convolutions are products",
    ),
    Assumption(
        "attention_has_switches",
        "use_sdpa and use_flash_attn: both off in ONNX",
    ),
    Assumption(
        "short_input_is_refused_by_its_length",
        "check_short_utt says how short is too short for these five subsamplings; the error "
        "holds the limit",
    ),
    Assumption(
        "subsampling_is_convolutions_and_a_linear_layer",
        "conv, out and pos_enc, which the ONNX export rebuilds",
    ),
    Assumption(
        "positions_are_these_sinusoids",
        "of four kinds, which the ONNX export computes for every length",
    ),
    Assumption(
        "default_frontend_is_stft_and_mel",
        "with these attributes: the ONNX export rebuilds it, and audio must be longer than "
        "what the STFT mirrors",
    ),
    # Commands.
    Assumption(
        "commands_have_these_names",
        "the recipe driver runs them by python -m, as asr.sh does",
    ),
    # torch.
    Assumption(
        "torch_says_where_a_state_dict_does_not_fit",
        "in words by which a resume tells another model from a lack of memory",
    ),
    Assumption(
        "torch_says_where_a_file_cannot_be_written",
        "with a RuntimeError of its writer, not the system's error",
    ),
    Assumption(
        "adamw_is_told_from_adam_by_its_groups",
        "decoupled_weight_decay: a resume refuses the other one",
    ),
    Assumption(
        "onnx_nodes_name_their_module",
        "in their metadata, pkg.torch.onnx.name_scopes: the front end stays in float",
    ),
)
