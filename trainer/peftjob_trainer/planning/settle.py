"""Agrees with all ranks on the shard group. Called by `session` between the rendezvous and the load.

Rank 0 has the estimate; every rank has a memory of its own, and the least of them counts. All ranks raise the same
error, so that every pod of the gang ends with the reason.
"""

import json
import logging
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from peftjob_api import Reason

from ..exits import TrainerError
from ..resolve import ResolvedSpec
from ..sharding.groups import ShardGroup
from .choose import Option, choose, options, size, spending, table, topology_of, writing_costs
from .demand import Demand, Parts
from .estimate import Inputs, estimate
from .memory import memory_per_rank
from .remedies import does_not_fit

log = logging.getLogger(__name__)

_KEY: Final = "peftjob/plan"
_TIMEOUT: Final = timedelta(minutes=10)
"""For the estimates of what would fit."""


def settle(
    spec: ResolvedSpec, demand: Demand | None, inputs: Inputs, store: Any, device: torch.device, ranks_here: int
) -> Option:
    """Return the option that all ranks take.

    Args:
        spec: Of the job.
        demand: From `estimate`, on rank 0; None on others.
        inputs: Of the job.
        store: That all ranks share.
        device: Of this rank.
        ranks_here: Ranks that share this pod's memory, or this machine's.

    Raises:
        TrainerError: `DOES_NOT_FIT`, on all ranks.
    """
    least = torch.tensor([memory_per_rank(device, ranks_here)], device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    if demand is not None:
        store.set(_KEY, json.dumps(_decide(spec, demand, inputs, int(least.item()))))
    store.wait([_KEY], _TIMEOUT)
    said = json.loads(store.get(_KEY))
    if "error" in said:
        raise TrainerError(Reason.DOES_NOT_FIT, said["error"])
    return Option(ShardGroup(**said["group"]), Parts(**said["parts"]), said["memory"], said["spare"])


def _decide(spec: ResolvedSpec, demand: Demand, inputs: Inputs, memory: int) -> dict[str, Any]:
    """Return the option that is taken, or the message that none can be; log the table.

    A group that the user names holds as little as it can; one that is chosen uses the memory that there is.
    """
    found = options(demand, topology_of(spec), memory, spec.sharding)
    taken = choose(found, is_rough=demand.is_rough)
    for line in table(found, taken):
        log.info("plan: %s", line)
    if taken is None:
        return {"error": does_not_fit(spec, found, demand, lambda changed: estimate(changed, inputs)).message}
    costs = writing_costs(demand, taken)
    if costs is not None:
        log.info("plan: %s", costs)
    if spec.sharding == "Auto" and spec.workers.accelerators and not demand.is_rough:
        taken = spending(taken, demand.base_bytes)
        log.info("plan: %s of what is left are for blocks that stay gathered", size(taken.spare))
    return {"group": vars(taken.group), "parts": vars(taken.parts), "memory": taken.memory, "spare": taken.spare}
