"""Evaluates a split over all ranks. Called by `train`; every rank takes the same number of batches."""

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.distributed as dist

from .data import Example
from .order import deal
from .sharding import Sharded


@torch.no_grad()
def evaluate(
    sharded: Sharded, task: ModuleType, examples: Sequence[Example], pad: int, micro_batch: int, device: torch.device
) -> dict[str, float]:
    """Return the task's metrics of the model as it is, the same on all ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    sharded.model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    predicted = torch.zeros(len(examples), dtype=torch.int64, device=device)
    seen = False
    for indices in deal(range(len(examples)), rank, world, micro_batch * task.EVALUATION_BATCHES):
        batch = task.collate([examples[i] for i in indices or [0]], pad)
        batch = {k: v.to(device) for k, v in (batch if indices else task.silence(batch)).items()}
        with sharded.autocast():
            loss, classes = task.loss_sum(sharded.model, batch)
        total += loss.double()
        if classes is not None:
            seen = True
            predicted[indices] = classes[: len(indices)]
    dist.all_reduce(total)
    dist.all_reduce(predicted)  # each index was filled by one rank
    sharded.model.train()
    count = sum(task.count(example) for example in examples)
    return dict(task.metrics(float(total) / max(count, 1), predicted.tolist() if seen else None, examples))
