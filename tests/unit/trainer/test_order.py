"""Which example is computed when and where."""

import itertools
import math
import random

import pytest
from peftjob_trainer.order import Length, deal_by_length, global_batch, length_of, pack


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "max_steps", "want"),
    [
        (512, 32, 3.0, None, Length(16, 48)),
        (512, 32, 1.0, None, Length(16, 16)),
        (500, 32, 1.0, None, Length(16, 16)),
        (300, 10, 0.1, None, Length(30, 3)),
        (300, 10, 0.11, None, Length(30, 4)),
        (5, 32, 2.0, None, Length(1, 2)),
        (512, 32, None, 7, Length(16, 7)),
        (10, 1, 0.001, None, Length(10, 1)),
    ],
    ids=[
        "three epochs",
        "one epoch",
        "a short last batch is a step",
        "a part of an epoch, exact in decimal",
        "a part of an epoch is rounded up",
        "fewer examples than a batch",
        "steps instead of epochs",
        "at least one step",
    ],
)
def test_length(examples: int, batch: int, epochs: float | None, max_steps: int | None, want: Length) -> None:
    assert length_of(examples, batch, epochs, max_steps) == want


def test_an_epoch_holds_every_example_once_and_epochs_differ() -> None:
    steps = [global_batch(45, 16, 7, step) for step in range(1, 7)]
    assert [len(batch) for batch in steps] == [16, 16, 13, 16, 16, 13]
    first, second = (list(itertools.chain(*steps[begin : begin + 3])) for begin in (0, 3))
    assert sorted(first) == sorted(second) == list(range(45))
    assert first != second


def test_the_order_is_the_seeds() -> None:
    assert global_batch(45, 16, 7, 5) == global_batch(45, 16, 7, 5)
    assert global_batch(45, 16, 7, 5) != global_batch(45, 16, 8, 5)


def lengths(count: int) -> list[int]:
    """Return lengths from 1 to 64, mixed."""
    chance = random.Random(count)
    return [chance.randint(1, 64) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 13, 16, 31])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("micro", [1, 4, 16])
def test_all_ranks_take_equally_many_micro_steps_and_share_the_batch(count: int, world: int, micro: int) -> None:
    shares = [deal_by_length(lengths(count), rank, world, micro) for rank in range(world)]
    assert {len(share) for share in shares} == {math.ceil(math.ceil(count / world) / micro)}
    assert max(len(part) for share in shares for part in share) <= micro
    assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(count))


def test_what_is_computed_at_the_same_time_is_of_similar_length() -> None:
    given = [5, 60, 7, 58, 6, 59, 8, 57]
    first, second = (deal_by_length(given, rank, 2, 2) for rank in range(2))
    assert [[given[i] for i in part] for part in first] == [[60, 58], [8, 6]]
    assert [[given[i] for i in part] for part in second] == [[59, 57], [7, 5]]


def test_equal_lengths_keep_their_order() -> None:
    assert deal_by_length([3] * 6, 0, 2, 2) == [[0, 2], [4]]
    assert deal_by_length([3] * 6, 1, 2, 2) == [[1, 3], [5]]


@pytest.mark.parametrize("count", [1, 2, 3, 13, 200])
@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_packed_rows_hold_each_example_once_and_are_few(count: int, multiple: int) -> None:
    given = lengths(count)
    rows = pack(given, 64, multiple)
    assert sorted(itertools.chain(*rows)) == list(range(count))
    assert all(sum(given[i] for i in row) <= 64 for row in rows)
    assert all(rows)
    fewest = math.ceil(sum(given) / 64)
    assert len(rows) <= 11 / 9 * fewest + 1 + multiple, "best-fit decreasing needs no more; Johnson 1974"


@pytest.mark.parametrize(
    ("given", "multiple", "want"),
    [
        ([10, 10, 10, 10], 1, [[0, 1, 2, 3]]),
        ([10, 10, 10, 10], 2, [[0, 2], [1, 3]]),
        ([10, 10, 10, 10], 8, [[0], [1], [2], [3]]),
        ([30, 30, 20, 20, 20], 1, [[0, 1], [2, 3, 4]]),
        ([64, 1], 1, [[0], [1]]),
        ([35, 33, 32, 30, 30], 1, [[0], [1, 4], [2, 3]]),
    ],
    ids=[
        "one row where one is enough",
        "as many rows as ranks, equally long",
        "no row without an example",
        "even rows do not fit, so the fewest stay",
        "a full row takes nothing more",
        "the fullest row that has room is filled first, then rows are made even",
    ],
)
def test_packing(given: list[int], multiple: int, want: list[list[int]]) -> None:
    assert pack(given, 64, multiple) == want
