"""Counts the bytes that this rank receives in collectives, by phase and operation.

The methods of `torch.distributed.ProcessGroup` are wrapped, the one place that our own calls, DeepSpeed's (through its
`comm` package), accelerate's and the library's object collectives all come through. Not counted is what C++ calls by
itself: `DistributedDataParallel`'s reducer, and barriers.

Counted is what an algorithm that sends nothing twice would receive: nothing of a rank's own part, and 2 (n - 1) / n of
a tensor for a sum over n ranks. What really goes over a wire is counted at the interface (`kit.nodes`).
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

GATHERS = (
    "allgather", "_allgather_base", "all_gather_single", "allgather_coalesced", "all_gather_single_coalesced",
    "allgather_into_tensor_coalesced", "gather", "gather_single", "gather_into_tensor",
)  # fmt: skip
SCATTERED_SUMS = (
    "reduce_scatter", "_reduce_scatter_base", "reduce_scatter_single", "reduce_scatter_single_coalesced",
    "reduce_scatter_tensor_coalesced",
)  # fmt: skip
EXCHANGES = ("alltoall", "alltoall_base", "all_to_all_single")
SUMS = ("allreduce", "allreduce_coalesced")
FROM_ROOT = ("broadcast", "scatter")
TO_ROOT = ("reduce",)
RECEIPTS = ("recv", "recv_anysource")
OPERATIONS = (*GATHERS, *SCATTERED_SUMS, *EXCHANGES, *SUMS, *FROM_ROOT, *TO_ROOT, *RECEIPTS)


def received(operation: str, first: int, second: int, ranks: int, *, is_root: bool) -> int:
    """Return the bytes that a rank receives.

    Args:
        operation: A method of a process group.
        first: Bytes of its first argument: the output, or the tensors that are changed in place.
        second: Bytes of its second argument: the input, if there is one apart.
        ranks: Of the group.
        is_root: Whether this rank is the one that the operation starts from or ends at.
    """
    if operation in GATHERS:
        return max(0, first - second)  # at a rank that only gives there is no output
    if operation in SCATTERED_SUMS:
        return second - first
    if operation in EXCHANGES:
        return first * (ranks - 1) // ranks
    if operation in SUMS:
        return 2 * first * (ranks - 1) // ranks
    if operation in FROM_ROOT:
        return 0 if is_root else first
    if operation in TO_ROOT:
        return first if is_root else 0
    return first


class Collectives:
    """The counts of this process, from `install` on."""

    def __init__(self, ranks_per_node: int) -> None:
        self.phase = "Starting"
        self.within: dict[str, Counter[str]] = {}
        """Phase -> operation -> bytes, of groups whose ranks are all on one node."""
        self.across: dict[str, Counter[str]] = {}
        """The same of groups that span nodes."""
        self._ranks_per_node = ranks_per_node
        self._spans: dict[int, tuple[Any, bool]] = {}

    def install(self) -> None:
        """Wrap the methods, for good."""
        import torch.distributed as dist

        for name in OPERATIONS:
            if hasattr(dist.ProcessGroup, name):
                setattr(dist.ProcessGroup, name, self._counting(name, getattr(dist.ProcessGroup, name)))

    def forget(self) -> None:
        """Begin anew."""
        self.within, self.across = {}, {}

    def total(self, phase: str, operations: tuple[str, ...] = OPERATIONS, *, across: bool | None = None) -> int:
        """Return the bytes of some operations in a phase; `across` tells of which groups, None: of all."""
        sides = [self.within] * (across is not True) + [self.across] * (across is not False)
        return sum(side.get(phase, Counter())[operation] for side in sides for operation in operations)

    def _counting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(group: Any, *args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            first, second = (sum(_sizes(value)) for value in (*given, None, None)[:2])
            root = next((value.rootRank for value in given if hasattr(value, "rootRank")), None)
            number = received(name, first, second, group.size(), is_root=root == group.rank())
            side = self.across if self._spans_nodes(group) else self.within
            side.setdefault(self.phase, Counter())[name] += number
            return original(group, *args, **kwargs)

        return call

    def _spans_nodes(self, group: Any) -> bool:
        import torch.distributed as dist

        known = self._spans.get(id(group))
        if known is None or known[0] is not group:
            nodes = {rank // self._ranks_per_node for rank in dist.get_process_group_ranks(group)}
            known = self._spans[id(group)] = (group, len(nodes) > 1)
        return known[1]


def _sizes(value: Any) -> Iterator[int]:
    """Yield the bytes of each tensor in an argument."""
    if hasattr(value, "element_size"):
        yield value.numel() * value.element_size()
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _sizes(item)
