"""The training loop. Called by `session` on every rank; all ranks take the same steps and decide the same.

The loss of a step is the sum over the supervised tokens (or rows) of the global batch divided by their number, so the
number of ranks and of micro steps changes nothing. Randomness is a function of (seed, step, micro step, rank).
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from peftjob_api import Reason

from .batches import Batching
from .checkpoints.keeper import Checkpoints
from .checkpoints.state import TrainingState
from .course import Course
from .data import Sample, Splits, numbers_of
from .divergence import MOST_IN_A_ROW, broken, diverged, may_return, tell_skipped
from .evaluate import evaluate
from .exits import TrainerError
from .history import EvalRecord, History
from .methods import Method
from .order import DEFAULT_MICRO_BATCH, Length, global_batch, length_of
from .progress import Progress
from .resolve import ResolvedSpec
from .schedule import learning_rate
from .sharding import Sharded, measured
from .steps import StepRecord
from .stopping import evaluates_after, is_out_of_patience
from .tasks import Task
from .writing import evaluate_writing

log = logging.getLogger(__name__)

MEASURED_STEP: Final = 3
"""By then whatever is going to stay gathered has been."""


@dataclass(frozen=True)
class Run:
    """What the loop works on."""

    spec: ResolvedSpec
    task: Task
    splits: Splits
    sharded: Sharded
    method: Method
    device: torch.device
    progress: Progress
    interrupted: Callable[[], bool]
    """Whether this rank was told to stop (SIGTERM)."""
    checkpoints: Checkpoints
    job: Mapping[str, Any]
    """What the run's numbers depend on: see `checkpoints.suits`."""
    start: TrainingState | None = None
    """To go on from."""
    older: Callable[[int], TrainingState | None] = lambda _: None
    """Returns the newest checkpoint before a step, if there is one; collective."""

    @property
    def batching(self) -> Batching:
        """How examples become batches."""
        training, dataset = self.spec.training, self.spec.dataset
        return Batching(
            task=self.task,
            micro_batch=training.micro_batch_size or min(DEFAULT_MICRO_BATCH, training.batch_size),
            row_tokens=dataset.max_length if dataset.packing else None,
            device=self.device,
        )


def train(run: Run) -> History:
    """Train to the end, leave the best step's adapter in the model, and return what happened.

    Raises:
        TrainerError: `NON_FINITE_LOSS` (see `divergence`), `INTERRUPTED` (after a step and its checkpoint, when any
            rank was told to stop), `SUPERSEDED` (by a newer gang, as a checkpoint found out).
    """
    spec, course = run.spec, Course(run.sharded, run.method, run.job)
    if run.start is not None:
        course.go_on(run.start)
        run.progress.skipped(course.history.steps.skipped)
    length = length_of(
        len(run.splits.train.examples), spec.training.batch_size, spec.training.epochs, spec.training.max_steps
    )
    run.sharded.model.train()
    run.progress.phase("Training")
    with run.checkpoints.rescuing(lambda: course.step, course.state):
        go_through(run, course, length)
    run.checkpoints.finish(course.step, course.state)
    course.restore_best()
    if not run.sharded.is_finite():
        raise broken(course.step)
    return course.history


def go_through(run: Run, course: Course, length: Length) -> None:
    """Take all steps that are left, evaluate and save where that is due; for errors see `train`."""
    spec = run.spec
    while True:
        step, history = course.step, course.history
        is_due = step > 0 and evaluates_after(spec, step, length.steps_per_epoch, length.total_steps)
        if is_due and not history.has_evaluated(step):
            course.evaluated(evaluate_split(run, history, "validation"))
        if step == length.total_steps or is_out_of_patience(spec, history.evaluations):
            break
        if not history.skipped_in_a_row:  # else it may have diverged
            run.checkpoints.offer(step, course.state)
        stop = take_step(run, history, step + 1, length)
        if history.skipped_in_a_row >= MOST_IN_A_ROW:
            go_back(run, course)
        if stop and course.step < length.total_steps:
            saved = run.checkpoints.stop(course.step, course.state)
            raise TrainerError(Reason.INTERRUPTED, f"told to stop (SIGTERM): ended after step {course.step}, {saved}")


def take_step(run: Run, history: History, step: int, length: Length) -> bool:
    """Take one optimiser step (from 1), or skip it, and record it; return whether any rank was told to stop."""
    training, sharded, examples = run.spec.training, run.sharded, run.splits.train.examples
    started = time.monotonic()
    epoch = (step - 1) // length.steps_per_epoch
    chosen = global_batch(len(examples), training.batch_size, training.seed, step)
    batch = [run.task.varied(examples[i], (training.seed, epoch, i)) for i in chosen]
    with ExitStack() as stack:
        measures = step == min(MEASURED_STEP, length.total_steps) and dist.get_rank() == 0
        measurement = stack.enter_context(measured(sharded)) if measures else None
        local_loss = forward_backward(run, step, batch)
    is_over = run.interrupted() or run.checkpoints.is_superseded
    loss, stop = sharded.reduce(local_loss, torch.full_like(local_loss, is_over))
    norm = sharded.clip(training.max_grad_norm)
    rate = learning_rate(training, step, length.total_steps)
    if math.isfinite(loss) and math.isfinite(norm):
        sharded.step(rate)
    else:
        sharded.zero_gradients()  # the method's own schedule goes on
    run.method.after_step(sharded.model, step, length.total_steps)
    sharded.forget_gradients()
    seconds = time.monotonic() - started
    tokens = sum(example.length for example in batch)
    record = StepRecord(step, step / length.steps_per_epoch, loss, rate, norm, tokens / seconds, seconds)
    history.steps.append(record)
    history.base_bytes = measurement.result() if measurement else history.base_bytes
    run.progress.step(record, length.total_steps)
    if not record.is_taken:
        run.progress.skipped(history.steps.skipped)
        tell_skipped(record, numbers_of(examples, chosen))
    return bool(stop)


def go_back(run: Run, course: Course) -> None:
    """Go back to the newest checkpoint before the steps that were skipped last; collective.

    Raises:
        TrainerError: `NON_FINITE_LOSS`: there is none, or it went back there before.
    """
    history, step = course.history, course.step
    found = run.older(step - history.skipped_in_a_row + 1)
    if found is None or not may_return(history, found.step):
        training, examples = run.spec.training, run.splits.train.examples
        batch = global_batch(len(examples), training.batch_size, training.seed, step)
        raise diverged(history, numbers_of(examples, batch))
    log.info("%d steps in a row were skipped: going back to step %d", history.skipped_in_a_row, found.step)
    course.go_back(found)


def forward_backward(run: Run, step: int, batch: list[Sample]) -> torch.Tensor:
    """Compute this rank's share of a global batch; return its share of the loss (fp32 scalar), leave the gradients'."""
    supervised = max(1, sum(run.task.count(example) for example in batch))
    total = penalise(run)
    for micro, (_, tensors) in enumerate(run.batching.micro_batches(batch)):
        run.progress.beat()
        reseed(run.spec.training.seed, step, micro, dist.get_rank())
        with run.sharded.autocast():
            loss, _ = run.task.loss_sum(run.sharded.model, tensors)
        loss = loss / supervised
        run.sharded.backward(loss)
        total += loss.detach()
    run.progress.beat()
    return total


def penalise(run: Run) -> torch.Tensor:
    """Return this rank's share of the method's penalty, and leave that of the gradients: rank 0 has all of it."""
    penalty = run.method.penalty(run.sharded.model) if dist.get_rank() == 0 else None
    if penalty is None:
        return torch.zeros((), device=run.device)
    penalty.backward()
    return penalty.detach()


def reseed(seed: int, step: int, micro: int, rank: int) -> None:
    """Make what follows random by nothing but these numbers."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, micro, rank]).generate_state(1, np.uint64)[0]))


def check_told(run: Run, step: int) -> None:
    """End this rank's evaluation after a step, which may take longer than there is, if it was told to stop.

    Its peers notice that it is gone; what is trained does not change meanwhile.
    """
    run.progress.beat()
    if run.interrupted():
        raise TrainerError(Reason.INTERRUPTED, f"told to stop (SIGTERM): ended after step {step}, in its evaluation")


def evaluate_split(run: Run, history: History, split: str) -> EvalRecord:
    """Evaluate validation or test data with the model as it is, and record it."""
    chosen = run.splits.validation if split == "validation" else run.splits.test
    assert chosen is not None
    examples = chosen.examples
    if split == "validation" and run.spec.training.evaluation is not None:
        examples = examples[: run.spec.training.evaluation.max_samples]
    before = run.progress.status.phase
    run.progress.phase("Evaluating")
    check = partial(check_told, run, history.step) if split == "validation" else run.progress.beat
    metrics = evaluate(run.sharded, run.batching, examples, check)
    generate = run.spec.training.evaluation.generate if run.spec.training.evaluation else None
    if generate is not None:
        batching = run.batching
        metrics |= evaluate_writing(run.sharded, run.task, run.device, batching.micro_batch, examples, generate, check)
    record = EvalRecord(history.step, split, metrics)
    history.evaluations.append(record)
    run.progress.evaluation(record)
    run.progress.phase(before)
    return record
