"""Evaluates a split over all ranks. Called by `train`; every rank takes the same number of batches."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from .batches import Batching
from .data import Example
from .sharding import Sharded


@torch.no_grad()
def evaluate(sharded: Sharded, batching: Batching, examples: Sequence[Example]) -> dict[str, float]:
    """Return the task's metrics of the model as it is, the same on all ranks."""
    task, device = batching.task, batching.device
    sharded.model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    predicted = torch.zeros(len(examples), dtype=torch.int64, device=device)
    seen = False
    for indices, batch in batching.micro_batches(examples, task.EVALUATION_BATCHES):
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
