"""Evaluates a split over all ranks. Called by `train`; every rank takes the same number of batches."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch.nn.functional import pad

from .batches import Batching
from .data import IGNORED, Sample
from .sharding import Sharded


@torch.no_grad()
def evaluate(
    sharded: Sharded, batching: Batching, samples: Sequence[Sample], check: Callable[[], None]
) -> dict[str, float]:
    """Return the task's metrics of the model as it is, the same on all ranks; `check` is called before each batch."""
    task, device = batching.task, batching.device
    sharded.model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    found: list[tuple[list[int], torch.Tensor]] = []
    for indices, batch in batching.micro_batches(samples, task.evaluation_batches):
        check()
        with sharded.autocast():
            loss, predicted = task.loss_sum(sharded.model, batch)
        total += loss.double()
        if predicted is not None:
            found.append((indices, predicted.float()))
    dist.all_reduce(total)
    sharded.model.train()
    count = sum(task.count(sample) for sample in samples)
    predictions = of_all_ranks(found, len(samples), device) if found else None
    return task.metrics(float(total) / max(count, 1), predictions, samples)


def of_all_ranks(found: list[tuple[list[int], torch.Tensor]], samples: int, device: torch.device) -> torch.Tensor:
    """Return the predictions of all samples on the CPU; each was made by one rank. Where one is narrower: `IGNORED`.

    Args:
        found: Indices of samples, and their predictions (rows) or (rows, width), of one floating-point dtype; widths
            may differ.
        samples: How many there are.
        device: For the exchange.
    """
    is_flat = found[0][1].dim() == 1
    each = [(indices, (predicted[:, None] if is_flat else predicted)[: len(indices)]) for indices, predicted in found]
    width = torch.tensor(max(predicted.shape[1] for _, predicted in each), device=device)
    dist.all_reduce(width, op=dist.ReduceOp.MAX)
    table = torch.zeros(samples, int(width), dtype=found[0][1].dtype, device=device)
    for indices, predicted in each:
        table[indices] = pad(predicted, (0, int(width) - predicted.shape[1]), value=IGNORED)
    dist.all_reduce(table)
    return table.squeeze(1).cpu() if is_flat else table.cpu()
