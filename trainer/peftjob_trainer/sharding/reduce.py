"""Adds up what all ranks computed of what is trained: within the nodes first, then between them. Used by `state`.

On several nodes of several ranks, a flat all-reduce sends more than needed out of a node (1.7 times the gradients on
two nodes of two ranks). So each rank adds up one part for its node, those parts are added between nodes, and each node
hands them round. Of two nodes, each sends and receives the gradients' bytes once.
"""

import torch
import torch.distributed as dist

from .process_groups import Groups


class Reducer:
    """Sums flat tensors over the world, to the same bits on all ranks."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._parts = groups.topology.ranks_per_node if groups.topology.nodes > 1 else 1

    def padded(self, numel: int) -> int:
        """Return how many elements a tensor must have to hold so many."""
        return -(-numel // self._parts) * self._parts

    def sum(self, flat: torch.Tensor) -> None:
        """Replace a tensor by its sum over all ranks.

        Args:
            flat: fp32, one dimension, `padded` elements; what is behind the given ones is zero.
        """
        if self._parts == 1:
            dist.all_reduce(flat)
            return
        size = flat.numel() // self._parts
        part = flat.new_empty(size)
        dist.reduce_scatter_tensor(part, flat, group=self._groups.node)
        dist.all_reduce(part, group=self._groups.across)
        dist.all_gather_into_tensor(flat, part, group=self._groups.node)
