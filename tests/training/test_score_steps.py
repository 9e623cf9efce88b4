"""How far an optimizer's steps move the scores."""

import pytest
import torch

from espnet_des.errors import ConfigError
from espnet_des.method.selection import Schedule
from espnet_des.training.score_lr import moves_by_gradient
from espnet_des.training.trainer import register_hooks
from tests.conftest import make_model

STEPS = 400
SCHEDULE = Schedule(updates=(STEPS, STEPS), zeroed=(2, 6))


def moved(optim, granularity: str) -> torch.Tensor:
    """Where gradients in the ratio of 1, 2, 3, ... take the scores, relative to the first."""
    model = make_model({"granularity": granularity}, SCHEDULE)
    scores = model.encoder.scores
    rest = [p for p in model.parameters() if p is not scores]
    optimizer = optim([{"params": rest}, {"params": [scores], "weight_decay": 0.0}], lr=0.01)
    register_hooks(model, optimizer)
    start = None
    for t in range(STEPS):
        if t == STEPS // 4:  # the first steps know nothing of the others' gradients yet
            start = scores.detach().clone()
        scores.grad = -torch.arange(1.0, 1 + len(scores)) / 100
        optimizer.step()
    path = scores.detach() - start
    return path / path[0]


@pytest.mark.parametrize("optim", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam])
def test_components_move_by_their_gradients_and_layers_all_alike(optim):
    alike = moved(optim, "layer")
    torch.testing.assert_close(alike, torch.ones(len(alike)), rtol=0.01, atol=0.0)
    of_components = moved(optim, "component")
    asked = torch.arange(1.0, 1 + len(of_components))
    torch.testing.assert_close(of_components, asked, rtol=0.05, atol=0.0)


def test_other_optimizers_are_left_alone_or_refused():
    for asked in (None, "by_gradient"):
        model = make_model({"granularity": "component"}, SCHEDULE, score_steps=asked)
        rest = [p for p in model.parameters() if p is not model.encoder.scores]
        groups = [{"params": rest}, {"params": [model.encoder.scores]}]
        optimizer = torch.optim.Adadelta(groups)
        if asked is None:
            assert not moves_by_gradient(model, optimizer)
        else:
            with pytest.raises(
                ConfigError, match="score_steps: by_gradient .* not to adadelta"
            ):
                register_hooks(model, optimizer)
