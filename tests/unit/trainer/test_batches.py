"""What each rank computes in each micro step."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peftjob_api import PeftJobSpec
from peftjob_trainer import batches
from peftjob_trainer.batches import Batching
from peftjob_trainer.data import IGNORED, Example, Match
from peftjob_trainer.tasks.causal_lm import CausalLM
from peftjob_trainer.tasks.ranking import Ranking

WORLD = 2
SPEC = PeftJobSpec.model_validate(
    {
        "baseModel": {"uri": "file:///model"},
        "task": {"type": "CausalLM"},
        "dataset": {"train": "file:///train.jsonl"},
        "output": {"uri": "file:///out"},
    }
)


def examples(*lengths: int) -> list[Example]:
    """Return examples of distinct tokens, all of which are learned."""
    tokens = iter(range(1, 1000))
    return [Example(ids, ids) for ids in (tuple(next(tokens) for _ in range(length)) for length in lengths)]


def of_ranks(monkeypatch: pytest.MonkeyPatch, given: list[Example], row_tokens: int | None, at_once: int = 1) -> Any:
    """Return, for each rank, its micro batches of two rows."""
    batching = Batching(CausalLM(SPEC, 0, None), 2, row_tokens, torch.device("cpu"))
    found = []
    for rank in range(WORLD):
        fake = SimpleNamespace(get_rank=lambda rank=rank: rank, get_world_size=lambda: WORLD)
        monkeypatch.setattr(batches, "dist", fake)
        found.append(list(batching.micro_batches(given, at_once)))
    return found


def test_rows_are_padded_to_neighbours_in_length(monkeypatch: pytest.MonkeyPatch) -> None:
    given = examples(3, 9, 2, 8, 4, 7)
    first, second = of_ranks(monkeypatch, given, None)
    assert [indices for indices, _ in first] == [[1, 5], [0]]
    assert [indices for indices, _ in second] == [[3, 4], [2]]
    assert [batch["input_ids"].shape for _, batch in first] == [(2, 9), (1, 3)]
    assert all("position_ids" not in batch for _, batch in first)


def test_a_rank_without_examples_computes_the_shortest_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = examples(5, 3, 6, 7, 4)
    (_, (indices, batch)), (_, (none, empty)) = of_ranks(monkeypatch, given, None)
    assert (indices, none) == ([1], [])
    assert torch.equal(empty["input_ids"], batch["input_ids"])
    assert set(empty["labels"].flatten().tolist()) == {IGNORED}
    assert set(batch["labels"].flatten().tolist()) != {IGNORED}


def test_packed_rows_hold_all_examples_in_fewer_micro_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    given = examples(*[4] * 16)
    apart, packed = of_ranks(monkeypatch, given, None), of_ranks(monkeypatch, given, 16)
    assert [len(rank) for rank in apart] == [4, 4]
    assert [len(rank) for rank in packed] == [1, 1]
    tokens = [t for rank in packed for _, batch in rank for t in batch["input_ids"].flatten().tolist()]
    assert sorted(tokens) == [t for example in given for t in example.input_ids]
    assert sorted(i for rank in packed for indices, _ in rank for i in indices) == list(range(16))


@pytest.mark.parametrize(("rows", "want"), [(8, [[[4, 5, 6, 7]], [[0, 1, 2, 3]]]), (4, [[[0, 1, 2, 3]], [[]]])])
def test_groups_are_cut_in_order_and_computed_by_one_rank(
    monkeypatch: pytest.MonkeyPatch, rows: int, want: list[list[list[int]]]
) -> None:
    """Whose samples depend on each other: a group is the same on any number of ranks."""
    given = [Match((row, 9), (row,) * (1 + row // 4)) for row in range(1, rows + 1)]
    batching = Batching(Ranking(SPEC, 0, None), 4, None, torch.device("cpu"))
    for rank in range(WORLD):
        fake = SimpleNamespace(get_rank=lambda rank=rank: rank, get_world_size=lambda: WORLD)
        monkeypatch.setattr(batches, "dist", fake)
        found = list(batching.micro_batches(given))
        assert [indices for indices, _ in found] == want[rank]
        assert [set(batch["labels"].tolist()) == {IGNORED} for _, batch in found] == [not want[rank][0]]


def test_several_micro_batches_at_once_where_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    found = of_ranks(monkeypatch, examples(*[4] * 16), None, at_once=4)
    assert [[len(indices) for indices, _ in rank] for rank in found] == [[8], [8]]
