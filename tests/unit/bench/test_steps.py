"""How seconds of steps become one figure."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests/bench"))

import steps
from kit.launch import in_turns


def test_the_fastest_step_stands_for_equal_steps_and_the_left_out_never_count() -> None:
    assert steps.figure({"Full": [[0.1, 5.0, 0.2, 4.0], [0.1, 3.5, 0.2, 6.0]]}, "Full") == 3.5


def test_where_steps_differ_each_one_counts_at_its_best() -> None:
    times = {"Auto, mixed lengths": [[9.0, 5.0, 9.0, 4.0], [9.0, 3.5, 9.0, 6.0]]}
    assert steps.figure(times, "Auto, mixed lengths") == 7.5


def times(**changes: float) -> steps.Times:
    """Return two-step runs that meet all bars, but for some changes of the second step."""
    seconds = dict.fromkeys(steps.BARS, 1.0) | {theirs: 3.0 for theirs, _ in steps.BARS.values()}
    seconds |= {"Replicate": 1.0, "data parallel": 1.0, **changes}
    return {name: [[0.0, value]] for name, value in seconds.items()}


@pytest.mark.parametrize(
    ("changes", "want_missed"),
    [
        ({}, []),
        ({"Replicate": 1.06}, ["Replicate"]),
        ({"Full": 2.5}, ["Full"]),
        ({"library": 1.4}, ["Auto"]),
        ({"library, mixed lengths": 2.4}, ["mixed"]),
    ],
)
def test_a_slow_run_misses_its_own_bars(changes: dict[str, float], want_missed: list[str]) -> None:
    missed = [row.what for row in steps.rows_of(times(**changes)) if not row.met]
    assert len(missed) == len(want_missed)
    assert all(want in what for want, what in zip(want_missed, missed, strict=True))


def test_runs_that_compute_something_else_are_seen() -> None:
    losses = dict.fromkeys(times(), 2.0)
    assert steps.agreement(losses)[0].met
    assert not steps.agreement({**losses, "data parallel": 2.01})[0].met


def test_each_way_has_its_turn_in_each_round() -> None:
    assert list(in_turns(2, ["a", "b"])) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
