"""What stays gathered from the forward to the backward pass, and which part of a tensor each rank reads: pure."""

import pytest
from peftjob_trainer.sharding.share import part
from peftjob_trainer.sharding.zero3 import Use, kept, peak

TABLE, NORM, HEAD = Use(0, 40, False), Use(98, 1, True), Use(99, 40, True)


def decoder(blocks: int) -> list[Use]:
    """Return a table, blocks of 30, a norm and a head."""
    return [TABLE, *(Use(number, 30, True) for number in range(1, blocks + 1)), NORM, HEAD]


@pytest.mark.parametrize(
    ("room", "want_kept"),
    [
        pytest.param(40, {99}, id="no more than the largest module: the head, used last and first"),
        pytest.param(41, {98, 99}, id="one byte more: the norm before it"),
        pytest.param(70, {99, 4}, id="a block beside the head: the last one"),
        pytest.param(100, {99, 4, 3}, id="two blocks"),
        pytest.param(161, {99, 98, 1, 2, 3, 4}, id="all but the table, which the backward pass does not need"),
        pytest.param(0, set(), id="less than a module: nothing"),
    ],
)
def test_the_large_stay_first_and_then_the_late(room: int, want_kept: set[int]) -> None:
    order = decoder(4)
    chosen = kept(order, room)
    assert chosen == want_kept
    assert not chosen or peak(order, chosen) <= room


def test_the_most_at_once_is_what_stays_and_the_module_that_computes() -> None:
    order = decoder(3)
    assert peak(order, set()) == 40
    assert peak(order, {1}) == 30 + 40
    assert peak(order, {1, 2, 3, 99}) == 3 * 30 + 40


@pytest.mark.parametrize(("numel", "ranks"), [(8, 4), (9, 4), (3, 4), (0, 2), (1, 1)])
def test_ranks_read_a_tensor_in_parts_that_make_it_whole(numel: int, ranks: int) -> None:
    parts = [part(numel, place, ranks) for place in range(ranks)]
    assert [element for start, stop in parts for element in range(start, stop)] == list(range(numel))
