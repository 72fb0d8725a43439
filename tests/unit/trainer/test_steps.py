"""What a run keeps of its steps."""

from dataclasses import replace
from itertools import pairwise

import pytest
from peftjob_trainer.steps import MOST_KEPT, StepRecord, Steps


def record(step: int, loss: float = 1.0) -> StepRecord:
    return StepRecord(step, step / 9, loss, 1e-3, 0.5, 100.0, 0.25)


@pytest.mark.parametrize(
    ("count", "stride"),
    [(0, 1), (1, 1), (2, 1), (MOST_KEPT, 1), (MOST_KEPT + 1, 2), (2 * MOST_KEPT, 2), (2 * MOST_KEPT + 1, 4),
     (9 * MOST_KEPT + 5, 16)],
)  # fmt: skip
def test_what_is_kept_is_bounded_evenly_spaced_and_ends_with_the_last(count: int, stride: int) -> None:
    steps = Steps.of(record(step) for step in range(1, count + 1))
    assert [kept.step for kept in steps.kept] == list(range(1, count + 1, stride))
    assert len(steps.kept) <= MOST_KEPT
    numbers = [each.step for each in steps]
    assert numbers[-1:] == ([count] if count else [])
    assert all(a < b for a, b in pairwise(numbers))
    assert steps.seconds == 0.25 * count


@pytest.mark.parametrize("first", [0, 1, 2, MOST_KEPT - 1, MOST_KEPT, MOST_KEPT + 2, 4 * MOST_KEPT + 3])
def test_a_run_that_goes_on_from_what_was_kept_keeps_what_one_does_that_never_ended(first: int) -> None:
    nan = float("nan")
    whole = [record(step, nan if step % 5 < 2 else 1.0) for step in range(1, 6 * MOST_KEPT)]
    begun = Steps.of(whole[:first])
    again = Steps.restored(list(begun), begun.totals)
    assert again == begun
    for each in whole[first:]:
        again.append(each)
    assert again == Steps.of(whole)


def test_skipped_steps_are_counted_whether_their_records_are_kept_or_not() -> None:
    losses = [1.0, float("inf"), 1.0, *[float("nan")] * (2 * MOST_KEPT)]
    steps = Steps.of(record(step, loss) for step, loss in enumerate(losses, 1))
    assert (steps.skipped, steps.skipped_in_a_row) == (2 * MOST_KEPT + 1, 2 * MOST_KEPT)


def test_a_copy_stays_as_it_is() -> None:
    steps = Steps.of([record(1)])
    copy = steps.copy()
    steps.append(replace(record(2), loss=float("nan")))
    assert copy == Steps.of([record(1)])
