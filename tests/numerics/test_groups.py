"""Every shard group trains the same, gathers within its own ranks, and sends between nodes no more than it must.

On two nodes of two ranks: ranks 0 and 1, ranks 2 and 3.
"""

from typing import Any

import cases
import pytest
import torch
from test_agreement import GRADIENTS, LOSSES, largest_difference, worst

NODES = ((0, 1), (2, 3))
MEMBERS = {"Node": NODES, "Full": ((0, 1, 2, 3),)}
MICRO_STEPS = 1
SMALL_BYTES = 64 * 1024

each = pytest.mark.parametrize("kind", cases.GROUPS)


def is_between_nodes(ranks: tuple[int, ...]) -> bool:
    return not any(set(ranks) <= set(node) for node in NODES)


def trained_bytes(result: Any) -> int:
    return sum(4 * t.numel() for t in result["adapter"].values())


@each
def test_a_group_trains_as_one_rank_does(kind: str, one: Any, four: Any) -> None:
    single, result = one["grouped"], four[0][kind]
    assert len(result["losses"]) == cases.STEPS
    assert worst(result["losses"], single["losses"]) <= LOSSES
    assert max(float(g.abs().max()) for g in single["gradients"].values()) > 0.01
    assert largest_difference(result["gradients"], single["gradients"]) <= GRADIENTS


def test_all_groups_of_four_ranks_train_to_the_same_bits(four: Any) -> None:
    replicate, node, full = (four[0][kind] for kind in cases.GROUPS)
    assert replicate["losses"] == node["losses"] == full["losses"]
    for name, tensor in full["adapter"].items():
        assert torch.equal(tensor, node["adapter"][name])
        assert torch.equal(tensor, replicate["adapter"][name])


@each
def test_adapters_are_bitwise_equal_on_all_ranks(kind: str, four: Any) -> None:
    first = four[0][kind]
    for rank in four[1:]:
        assert all(torch.equal(first["adapter"][name], t) for name, t in rank[kind]["adapter"].items())
    assert not all(torch.equal(first["adapter"][name], t) for name, t in first["initial"].items())


@each
def test_the_base_is_partitioned_in_its_group_and_what_is_trained_in_none(kind: str, four: Any) -> None:
    for rank, results in enumerate(four):
        result = results[kind]
        own = next((list(ranks) for ranks in MEMBERS.get(kind, ()) if rank in ranks), None)
        for name, ranks in result["groups"].items():
            assert ranks == (None if name in result["adapter"] else own), name
        parts = len(own) if own else 1
        assert result["whole"] / parts <= result["plan"]["baseBytesPerRank"] <= 1.02 * result["whole"] / parts
        assert (result["plan"]["shardGroup"], result["plan"]["shardRanks"]) == (kind, parts)


@each
def test_gradients_cross_between_nodes_once(kind: str, four: Any) -> None:
    """Each of a node's two ranks sends its half to its partner, which the sum of two ranks does with as many bytes."""
    crossing = {call: size for call, size in four[0][kind]["training"].items() if is_between_nodes(call[1])}
    gradients = crossing.pop(("all_reduce", (0, 2)))
    needed = trained_bytes(four[0][kind]) * cases.STEPS
    assert needed <= 2 * gradients <= 1.1 * needed
    base = crossing.pop(("all_gather_into_tensor", (0, 1, 2, 3)), 0)
    assert (base > 0) == (kind == "Full")
    assert sum(crossing.values()) <= SMALL_BYTES


@pytest.mark.parametrize("kind", ["Node", "Full"])
def test_the_base_is_gathered_less_than_twice_for_a_step_with_checkpointing(kind: str, four: Any) -> None:
    result = four[0][kind]
    gradients = trained_bytes(result) * cases.STEPS
    gathers = sum(size for (name, _), size in result["training"].items() if name.startswith("all_gather"))
    base = gathers - gradients  # the last part of the reduction gathers those
    assert result["whole"] <= base / (cases.STEPS * MICRO_STEPS) <= 1.9 * result["whole"]
    at_once = result["base"]["peak"] - result["base"]["partition"]
    assert at_once <= 2 * result["base"]["largest_block"]
    assert result["base"]["largest_block"] < result["whole"] / cases.BLOCKS


def test_nothing_is_gathered_again_where_there_is_room(two: Any) -> None:
    result = two[0]["deep, everything kept"]
    gathers = sum(size for (name, _), size in result["training"].items() if name.startswith("all_gather"))
    steps = len(result["losses"])
    assert gathers < two[0]["deep"]["training"]["all_gather_into_tensor", (0, 1)]
    # The first micro step finds out in which order modules compute.
    assert gathers <= (steps + 1) * result["whole"] * 1.02


def test_replicas_gather_nothing(four: Any, two: Any) -> None:
    assert set(two[0]["deep, Replicate"]["training"]) == {("all_reduce", (0, 1))}
    calls = four[0]["Replicate"]["training"]
    assert set(calls) == {
        ("reduce_scatter_tensor", (0, 1)), ("all_reduce", (0, 2)), ("all_gather_into_tensor", (0, 1)),
    }  # fmt: skip
    assert calls["all_gather_into_tensor", (0, 1)] <= 1.1 * trained_bytes(four[0]["Replicate"]) * cases.STEPS


@each
def test_loading_sends_nothing_of_the_base(kind: str, four: Any) -> None:
    assert sum(four[0][kind]["loading"].values()) <= 200


@each
def test_a_save_gathers_nothing(kind: str, four: Any) -> None:
    result = four[0][kind]
    assert result["saved"]["calls"] == {}
    tensors = result["saved"]["tensors"].values()
    assert sum(4 * t.numel() for t in tensors) == trained_bytes(result)
    assert {t.dtype for t in tensors} == {torch.float32}
