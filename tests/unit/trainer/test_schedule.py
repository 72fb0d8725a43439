"""The learning rate of each step, as transformers' own schedulers have it."""

import pytest
import torch
from peftjob_api.training_spec import TrainingSpec
from peftjob_trainer.schedule import learning_rate
from transformers import get_scheduler

TOTAL = 40


@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.25, 1.0])
@pytest.mark.parametrize("schedule", ["Linear", "Cosine", "Constant"])
def test_the_rates_are_those_of_transformers(schedule: str, warmup: float) -> None:
    training = TrainingSpec.model_validate({"schedule": schedule, "warmupRatio": warmup, "learningRate": 0.5})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    name = {"Linear": "linear", "Cosine": "cosine", "Constant": "constant_with_warmup"}[schedule]
    steps = {0.0: 0, 0.03: 2, 0.25: 10, 1.0: 40}[warmup]
    theirs = get_scheduler(name, optimizer, num_warmup_steps=steps, num_training_steps=TOTAL)
    for step in range(1, TOTAL + 1):
        assert learning_rate(training, step, TOTAL) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        theirs.step()
