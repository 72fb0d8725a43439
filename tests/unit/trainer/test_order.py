"""Which example is computed when and where."""

import itertools

import pytest
from peftjob_trainer.order import Length, deal, global_batch, length_of


@pytest.mark.parametrize(
    ("examples", "batch", "epochs", "max_steps", "want"),
    [
        (512, 32, None, None, Length(16, 48)),
        (512, 32, 1.0, None, Length(16, 16)),
        (500, 32, 1.0, None, Length(16, 16)),
        (300, 10, 0.1, None, Length(30, 3)),
        (300, 10, 0.11, None, Length(30, 4)),
        (5, 32, 2.0, None, Length(1, 2)),
        (512, 32, None, 7, Length(16, 7)),
        (10, 1, 0.001, None, Length(10, 1)),
    ],
    ids=[
        "three epochs by default",
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


@pytest.mark.parametrize("count", [1, 2, 3, 13, 16, 31])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("micro", [1, 4, 16])
def test_all_ranks_take_equally_many_micro_steps_and_share_the_batch(count: int, world: int, micro: int) -> None:
    shares = [deal(range(count), rank, world, micro) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) >= 1
    assert max(len(part) for share in shares for part in share) <= micro
    assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(count))
