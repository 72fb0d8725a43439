"""How far a run has come beside its model: the history, and the adapter of the best evaluation. Held by `train`.

Turned into the content of a checkpoint and back; the files are the business of `checkpoints`.
"""

from collections.abc import Mapping
from typing import Any

import torch

from .checkpoints.state import METHOD, TrainingState
from .history import EvalRecord, History, Return
from .methods import Method
from .sharding import Sharded
from .sharding.state import flat


class Course:
    """Of one run."""

    def __init__(self, sharded: Sharded, method: Method, job: Mapping[str, Any]) -> None:
        """Begin before the first step.

        Args:
            sharded: The model and its optimiser.
            method: In it.
            job: What the run's numbers depend on.
        """
        self.history = History()
        self._sharded, self._method, self._job = sharded, method, job
        self._best: torch.Tensor | None = None
        """What was trained after the step of the best evaluation, flat, fp32, on the CPU."""

    @property
    def step(self) -> int:
        """The last finished step; 0: none is."""
        return self.history.step

    def evaluated(self, record: EvalRecord) -> None:
        """Keep the adapter as it is now, if its evaluation, the last in the history, is the best one."""
        if self.history.best_evaluation(self._method.spec) is record:
            self._best = flat(self._sharded.trained.values())

    def restore_best(self) -> None:
        """Put the best adapter back; without any evaluation, the last step's stays."""
        if self._best is not None:
            self._sharded.restore(self._best)

    def state(self) -> TrainingState:
        """Return copies of all that the next step depends on, after at least one step."""
        best = self.history.best_evaluation(self._method.spec)
        own = self._method.running_state(self._sharded.model)
        return TrainingState(
            step=self.step,
            job=self._job,
            shapes=self._sharded.shapes(),
            tensors={
                **self._sharded.state(),
                **{METHOD + name: tensor.detach().cpu().clone() for name, tensor in own.items()},
            },
            history=self.history.copy(),
            best_step=best.step if best else None,
            best=self._best,
        )

    def go_on(self, state: TrainingState) -> None:
        """Take all of a checkpoint, which suits the run, so that the next step is the one that would have followed."""
        self._load(state)
        self.history, self._best = state.history, state.best

    def go_back(self, state: TrainingState) -> None:
        """Take what is trained and its moments from an earlier state; the next batch stays the one that follows."""
        self._load(state)
        self.history.returns.append(Return(self.step, state.step))

    def _load(self, state: TrainingState) -> None:
        self._sharded.load_state(state.tensors)
        own = {n.removeprefix(METHOD): t for n, t in state.tensors.items() if n.startswith(METHOD)}
        self._method.load_running_state(self._sharded.model, own)
