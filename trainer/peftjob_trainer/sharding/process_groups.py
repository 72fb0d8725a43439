"""The process groups of a shard group: which ranks gather together, and which add up gradients. Used by `session`.

All ranks open the same ones in the same order, as NCCL and Gloo ask for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Final

import torch.distributed as dist

from .groups import ShardGroup, Topology

COLLECTIVE_TIMEOUT: Final = timedelta(minutes=10)
"""For a peer that says nothing any more; one that died closes its connections, which is noticed at once."""


@dataclass(frozen=True)
class Groups:
    """A shard group, where its ranks are, and this rank's process groups; one of a single rank is None."""

    shard: ShardGroup
    topology: Topology
    base: Any
    """Among whose ranks a copy of the base is partitioned; None: each rank holds a copy."""
    node: Any
    """The ranks of this node."""
    across: Any
    """One rank of each node: those at the same place in their nodes."""

    @property
    def place_in_node(self) -> int:
        """Where this rank is among those of its node."""
        return dist.get_rank() % self.topology.ranks_per_node


def open_groups(shard: ShardGroup, topology: Topology) -> Groups:
    """Return the groups of this rank; all ranks call this."""
    assert topology.world == dist.get_world_size(), (topology, dist.get_world_size())
    size, width = shard.ranks, topology.ranks_per_node
    return Groups(
        shard,
        topology,
        base=_own(tuple(tuple(shard.members(first)) for first in range(0, topology.world, size))),
        node=_own(tuple(tuple(range(first, first + width)) for first in range(0, topology.world, width))),
        across=_own(tuple(tuple(range(place, topology.world, width)) for place in range(width))),
    )


@cache
def _own(groups: Sequence[Sequence[int]]) -> Any:
    """Return the one of some groups, which together are the world, that this rank is in."""
    if len(groups[0]) == 1:
        return None
    if len(groups) == 1:
        return dist.group.WORLD
    own, _ = dist.new_subgroups_by_enumeration([list(ranks) for ranks in groups], timeout=COLLECTIVE_TIMEOUT)
    return own
