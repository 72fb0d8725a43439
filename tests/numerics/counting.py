"""Counts what is given to torch.distributed, by operation and by ranks. Used by `harness` and `loading`."""

from collections import Counter
from typing import Any

import torch.distributed as dist

SIZED_BY = {
    "broadcast": 0, "all_reduce": 0, "reduce": 0, "all_gather": 0, "all_gather_into_tensor": 0, "gather": 0,
    "scatter": 0, "reduce_scatter": 1, "reduce_scatter_tensor": 1, "all_to_all": 0, "all_to_all_single": 0, "send": 0,
    "recv": 0, "isend": 0, "irecv": 0,
}  # fmt: skip
"""Operation -> which argument is as large as all that comes together."""

Calls = Counter[tuple[str, tuple[int, ...]]]
"""(operation, ranks) -> bytes."""


def count_collectives() -> Calls:
    """Return a counter that goes on from now; DeepSpeed takes hold of some operations when it is initialised."""
    calls: Calls = Counter()

    def counting(name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            group = kwargs.get("group") or next((a for a in args if isinstance(a, dist.ProcessGroup)), None)
            ranks = tuple(dist.get_process_group_ranks(group or dist.group.WORLD))
            values = [*args, *kwargs.values()]
            value = values[SIZED_BY[name]]
            calls[name, ranks] += sum(
                t.numel() * t.element_size() for t in (value if isinstance(value, list | tuple) else [value])
            )
            return original(*args, **kwargs)

        return call

    for name in SIZED_BY:
        setattr(dist, name, counting(name, getattr(dist, name)))
    return calls
