"""What follows from steps that were not finite."""

import math

import pytest
from peftjob_api import Reason
from peftjob_trainer.divergence import diverged, may_return
from peftjob_trainer.history import History, Return
from peftjob_trainer.steps import StepRecord, Steps


def history(*losses: float, norm: float = 1.0, returns: tuple[Return, ...] = ()) -> History:
    """Return the history of steps with some losses."""
    steps = (StepRecord(step, 0.1 * step, loss, 1e-3, norm, 100.0, 1.0) for step, loss in enumerate(losses, 1))
    return History(Steps.of(steps), returns=list(returns))


@pytest.mark.parametrize(
    ("told", "want", "want_in_a_row"),
    [
        (history(), 0, 0),
        (history(1.0, math.nan, 1.0), 1, 0),
        (history(1.0, math.nan, math.inf), 2, 2),
        (history(math.nan, 1.0, -math.inf), 2, 1),
        (history(1.0, 1.0, norm=math.inf), 2, 2),
        (history(*[math.nan] * 4, returns=(Return(3, 1),)), 4, 1),
        (history(*[math.nan] * 3, returns=(Return(3, 1),)), 3, 0),
    ],
    ids=["no step", "one", "two in a row", "one at the end", "of the gradient", "after a return", "at a return"],
)
def test_skipped_steps_are_counted(told: History, want: int, want_in_a_row: int) -> None:
    assert (told.steps.skipped, told.skipped_in_a_row) == (want, want_in_a_row)


@pytest.mark.parametrize(
    ("returns", "to", "want"),
    [((), None, False), ((), 4, True), ((Return(9, 4),), 9, False), ((Return(9, 4),), 12, True)],
    ids=["no checkpoint", "the first time", "none was written since", "one was written since"],
)
def test_going_back_is_tried_once_from_each_checkpoint(returns: tuple[Return, ...], to: int | None, want: bool) -> None:
    assert may_return(history(returns=returns), to) == want


def test_the_error_names_number_step_batch_and_what_was_tried() -> None:
    error = diverged(history(1.0, *[math.nan] * 6, returns=(Return(4, 1),)), [9, 3, *range(100, 140)])
    assert error.reason is Reason.NON_FINITE_LOSS
    assert error.message.startswith(
        "the loss is nan at step 7, the last of 3 in a row, also after going back from step 4 to step 1; its batch: "
        "examples 3, 9, 100, "
    )
    assert "129 and 10 more of spec.dataset.train" in error.message
    norm = diverged(history(1.0, 1.0, 1.0, norm=math.inf), [3]).message
    assert norm.startswith("the gradient's norm is inf at step 3, the last of 3 in a row; its batch: examples 3 of ")
