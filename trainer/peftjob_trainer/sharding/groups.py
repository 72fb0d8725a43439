"""Among which ranks a copy of the frozen base is partitioned; pure. Chosen by `planning`, obeyed by `load` and `state`.

Ranks are numbered node by node, so a shard group is a run of neighbours: rank r of a group of w is in group `r // w`
at place `r % w`, and so are the ranks of a node.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["Replicate", "Node", "Nodes", "Full"]


@dataclass(frozen=True)
class Topology:
    """Where the ranks of a gang are."""

    nodes: int
    ranks_per_node: int

    @property
    def world(self) -> int:
        """All ranks."""
        return self.nodes * self.ranks_per_node

    def node_of(self, rank: int) -> int:
        """Return the node of a rank."""
        return rank // self.ranks_per_node


@dataclass(frozen=True)
class ShardGroup:
    """A way to lay the base: each run of `ranks` ranks holds one copy of it."""

    kind: Kind
    ranks: int

    def index(self, rank: int) -> int:
        """Return which group a rank belongs to."""
        return rank // self.ranks

    def place(self, rank: int) -> int:
        """Return a rank's place in its group."""
        return rank % self.ranks

    def members(self, rank: int) -> range:
        """Return the ranks of a rank's group."""
        first = self.index(rank) * self.ranks
        return range(first, first + self.ranks)


def shard_group(kind: Kind, topology: Topology, nodes: int = 1) -> ShardGroup:
    """Return the group of a kind; `nodes` is how many of them share a copy for `Nodes`."""
    sizes = {"Replicate": 1, "Node": topology.ranks_per_node, "Full": topology.world}
    return ShardGroup(kind, sizes.get(kind, nodes * topology.ranks_per_node))


def candidates(topology: Topology) -> Sequence[ShardGroup]:
    """Return all groups that differ from each other, the smallest first; each divides the world evenly."""
    found = [shard_group("Replicate", topology)]
    if topology.ranks_per_node > 1 and topology.nodes > 1:
        found.append(shard_group("Node", topology))
    found += [shard_group("Nodes", topology, k) for k in range(2, topology.nodes) if topology.nodes % k == 0]
    if topology.world > 1:
        found.append(shard_group("Full", topology))
    return found
