"""Reads what all ranks of a node hold alike once for the node: each rank reads a part, and they exchange. For `load`.

Parts go straight to where they belong and are exchanged in place, so this needs no memory beside the tensors. Each
rank receives the others' parts once, over the node's own links; nothing goes between nodes.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from .process_groups import Groups
from .stage import Target


def part(numel: int, place: int, ranks: int) -> tuple[int, int]:
    """Return the elements, from and to before, of a tensor that one of some ranks reads."""
    size = -(-numel // ranks)
    return min(place * size, numel), min((place + 1) * size, numel)


def own_parts(targets: Sequence[Target], groups: Groups) -> list[Target]:
    """Return what this rank reads of targets that are the same on all ranks of its node."""
    found = []
    for target in targets:
        start, stop = part(target.into.numel(), groups.place_in_node, groups.topology.ranks_per_node)
        if start < stop:
            into = target.into[start:stop]
            found.append(Target(target.name, into, target.start + start, target.start + stop))
    return found


def exchange(targets: Sequence[Target], groups: Groups) -> None:
    """Give the ranks of this node what the others read; `targets` are the same on all of them, in order."""
    ranks, place = groups.topology.ranks_per_node, groups.place_in_node
    first = dist.get_rank() - place
    for target in targets:
        numel, raw = target.into.numel(), target.into.view(torch.uint8)
        width = target.into.element_size()
        parts = [raw[width * start : width * stop] for start, stop in (part(numel, p, ranks) for p in range(ranks))]
        if numel % ranks == 0:
            dist.all_gather_into_tensor(raw, parts[place], group=groups.node)
            continue
        for number, piece in enumerate(parts):
            if len(piece):
                dist.broadcast(piece, first + number, group=groups.node)
