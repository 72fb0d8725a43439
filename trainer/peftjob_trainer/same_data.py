"""Makes sure that all nodes have read the same data. Called by `session` once the ranks have met.

Nodes fetch for themselves, seconds apart: a file that changed meanwhile, a branch that moved, or a volume of each
node's own would have them train on different examples, and nobody would see it in the loss.
"""

import torch
import torch.distributed as dist
from peftjob_api import Reason

from .data import Splits
from .exits import TrainerError


def check_same(splits: Splits, device: torch.device, ranks_per_node: int) -> None:
    """Raise unless every node has read what the first one has; one exchange of a few numbers.

    Args:
        splits: That this rank's node has read.
        device: For the exchange.
        ranks_per_node: For the message.

    Raises:
        TrainerError: `DATASET_DIFFERS`, the same on all ranks.
    """
    named = splits.each()
    own = torch.tensor(
        [[len(split.examples), *bytes.fromhex(split.digest)] for split in named], dtype=torch.int64, device=device
    )
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    for rank, other in enumerate(found):
        for split, theirs, first in zip(named, other.tolist(), found[0].tolist(), strict=True):
            if theirs != first:
                raise differs(split.name, rank // ranks_per_node, theirs[0], first[0])


def differs(split: str, node: int, examples: int, wanted: int) -> TrainerError:
    """Return the error of a node with other data than node 0."""
    count = f"{examples} examples, not {wanted}" if examples != wanted else f"{examples} examples, but other ones"
    return TrainerError(
        Reason.DATASET_DIFFERS,
        f"node {node} has read other {split} data than node 0 ({count}): the files changed meanwhile, or spec.dataset "
        f"names a path that is not the same volume on every node; pin an hf:// revision by its commit, leave files as "
        f"they are while a job starts, and create the PeftJob anew",
    )
