"""Shard groups: pure arithmetic of ranks."""

import pytest
from peftjob_trainer.sharding.groups import ShardGroup, Topology, candidates, shard_group


@pytest.mark.parametrize(
    ("nodes", "ranks_per_node", "expected"),
    [
        (1, 1, [("Replicate", 1)]),
        (1, 4, [("Replicate", 1), ("Full", 4)]),
        (2, 1, [("Replicate", 1), ("Full", 2)]),
        (2, 2, [("Replicate", 1), ("Node", 2), ("Full", 4)]),
        (4, 1, [("Replicate", 1), ("Nodes", 2), ("Full", 4)]),
        (6, 8, [("Replicate", 1), ("Node", 8), ("Nodes", 16), ("Nodes", 24), ("Full", 48)]),
        (5, 8, [("Replicate", 1), ("Node", 8), ("Full", 40)]),
    ],
)
def test_candidates_are_all_that_differ_smallest_first(
    nodes: int, ranks_per_node: int, expected: list[tuple[str, int]]
) -> None:
    assert [(g.kind, g.ranks) for g in candidates(Topology(nodes, ranks_per_node))] == expected


@pytest.mark.parametrize("topology", [Topology(1, 3), Topology(4, 2), Topology(6, 8)])
def test_each_rank_is_at_one_place_of_one_group(topology: Topology) -> None:
    for group in candidates(topology):
        places = [(group.index(r), group.place(r)) for r in range(topology.world)]
        assert len(set(places)) == topology.world
        for rank in range(topology.world):
            assert [r for r in range(topology.world) if group.index(r) == group.index(rank)] == list(
                group.members(rank)
            )


def test_a_forced_kind_has_the_size_it_names() -> None:
    topology = Topology(4, 2)
    assert shard_group("Replicate", topology) == ShardGroup("Replicate", 1)
    assert shard_group("Node", topology) == ShardGroup("Node", 2)
    assert shard_group("Nodes", topology, 2) == ShardGroup("Nodes", 4)
    assert shard_group("Full", topology) == ShardGroup("Full", 8)
    assert topology.node_of(5) == 2
