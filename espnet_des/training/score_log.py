"""How the layer scores moved: told to TensorBoard in training, and read back.

Everything goes to ESPnet's own writer (``tensorboard/train``); its step is the
number of updates done, so an event at step t has what update t starts from.

- ``selection/scores``: all scores as one tensor, at most about 1000 times in a
  training and around every zero-out. This is what is read back.
- ``scores/05_block1_mhsa``: one layer's score, about 100 times, as a curve.
- ``kept_layers``: which layers each size keeps, as a picture after every epoch.

Which updates are told follows from the schedule alone, so that a resumed
training tells the same ones. In stage 2 nothing moves, and nothing is told.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch

from espnet_des.errors import ConfigError
from espnet_des.method.layers import layer_names
from espnet_des.method.selection import Schedule
from espnet_des.method.tracker import History

SCORES = "selection/scores"
TENSORS, CURVE_POINTS = 1000, 100


def is_told(schedule: Schedule, step: int, points: int = TENSORS) -> bool:
    """True where the scores are told after this number of updates.

    Args:
        points: how many steps of stage 1, at equal distances, are told besides
            those around the ends of its iterations.
    """
    last = schedule.last_update + 1
    # Before and after the update that zeroes: a jump is then drawn as a jump.
    if step in schedule.ends or step - 1 in schedule.ends:
        return True
    return step <= last and step % -(-last // points) == 0


@contextlib.contextmanager
def tell_tensorboard(model, optimizer: torch.optim.Optimizer, writer) -> Iterator[None]:
    """Tell TensorBoard of the selection while an epoch of stage 1 trains.

    Nothing is drawn at random and nothing enters a graph: a training with it
    ends as one without.

    Args:
        model: a ``DESModel`` that has its schedule; its hooks on the optimizer's
            step are in place already, so that it is read after they ran.
        writer: the SummaryWriter of the training; None on ranks that have none.
    """
    if writer is None or model.stage == 2:
        yield
        return
    teller = _Teller(model, writer)
    if not int(model.state.updates):
        teller.after_step()  # what training starts from
    hook = optimizer.register_step_post_hook(teller.after_step)
    try:
        yield
        teller.end_epoch()
    finally:
        hook.remove()


class _Teller:
    def __init__(self, model, writer):
        self.encoder, self.state, self.writer = model.encoder, model.state, writer
        self.schedule = model.state.get_schedule()
        self.told = -1

    def after_step(self, *_) -> None:
        step = int(self.state.updates)
        # A step that AMP skipped has not moved the counter.
        if step == self.told or not is_told(self.schedule, step):
            return
        self.told = step
        scores = self.encoder.selector.of_layers(self.encoder.scores.detach().cpu().double())
        self.writer.add_tensor(SCORES, scores, step)
        if is_told(self.schedule, step, CURVE_POINTS):
            for name, score in zip(layer_names(self.encoder.units), scores.tolist()):
                self.writer.add_scalar(f"scores/{name}", score, step)

    def end_epoch(self) -> None:
        # Here, so that a training without TensorBoard does not load matplotlib.
        from espnet_des.plot.kept import draw_kept_layers
        from espnet_des.plot.style import to_pixels

        encoder, step = self.encoder, int(self.state.updates)
        figure = draw_kept_layers(
            encoder.units, encoder.ranking(), encoder.sizes,
            f"Layers that each size keeps after {step:,} updates",
            [len(encoder.kept_units(size)) for size in encoder.sizes],
        )  # fmt: skip
        self.writer.add_image("kept_layers", to_pixels(figure), step, dataformats="HWC")
        # ESPnet writes the checkpoint next: what a resume will not tell again
        # must be on the disk by then.
        self.writer.flush()


def read_history(folder: Path) -> History:
    """Read the scores of a training from its TensorBoard event files.

    Args:
        folder: ``tensorboard/train`` of the experiment.

    Raises:
        ConfigError: where no scores are in it.
    """
    # Here: this module is loaded in training, which only writes.
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util.tensor_util import make_ndarray

    # By default ten tensors of a tag are kept, drawn at random; 0 keeps all.
    sizes = dict.fromkeys(event_accumulator.DEFAULT_SIZE_GUIDANCE, 1) | {"tensors": 0}
    found = []
    for path in folder.glob("*tfevents*"):
        events = event_accumulator.EventAccumulator(str(path), sizes).Reload()
        if SCORES in events.Tags()["tensors"]:
            found += events.Tensors(SCORES)
    if not found:
        raise ConfigError(
            f"{folder} has no layer scores over training: it was trained with "
            "use_tensorboard: false, by an older espnet_des, or from a supernet whose "
            "layers were chosen already"
        )
    points: list[Any] = []  # events of TensorBoard
    for event in sorted(found, key=lambda event: event.wall_time):
        # What was told after the checkpoint that a resume began at, or by an
        # earlier training in this folder, did not lead to this model.
        while points and points[-1].step >= event.step:
            points.pop()
        points.append(event)
    scores = [make_ndarray(event.tensor_proto) for event in points]
    return History(numpy.array([event.step for event in points]), numpy.stack(scores))
