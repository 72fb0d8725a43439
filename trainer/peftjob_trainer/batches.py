"""From samples to the tensors of each micro step. Called by `train` and `evaluate`; computed alike on every rank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist

from .data import Example, Sample, lengths_of
from .order import deal_by_length, pack
from .tasks import Task


@dataclass(frozen=True)
class Batching:
    """How samples become batches."""

    task: Task
    micro_batch: int
    """Rows that one device computes at once."""
    row_tokens: int | None
    """Tokens up to which samples share a row; None: each has a row of its own."""
    device: torch.device

    def micro_batches(
        self, samples: Sequence[Sample], at_once: int = 1
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield this rank's micro batches: the indices of the samples and their tensors, on the device.

        Of a task whose samples depend on each other, a row is a group of `micro_batch` samples, in their order: which
        are together depends on nothing else. Every rank gets equally many batches. One without samples computes the
        shortest of all with nothing supervised.

        Args:
            samples: Of a global batch, or a split, the same on all ranks.
            at_once: Micro batches that are computed as one.
        """
        rank, world = dist.get_rank(), dist.get_world_size()
        lengths = lengths_of(samples)
        shortest = [[min(range(len(samples)), key=lengths.__getitem__)]]
        size = self.micro_batch if self.task.is_grouped else 1
        count = len(samples)
        groups = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
        rows = pack(lengths, self.row_tokens, world) if self.row_tokens else groups
        tokens = [sum(lengths[i] for i in row) for row in rows]
        for chosen in deal_by_length(tokens, rank, world, self.micro_batch // size * at_once):
            own = [rows[row] for row in chosen]
            batch = self._collate([[samples[i] for i in row] for row in own or shortest])
            batch = batch if own else self.task.silence(batch)
            yield [i for row in own for i in row], {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _collate(self, rows: Sequence[Sequence[Sample]]) -> dict[str, torch.Tensor]:
        if self.task.is_grouped:
            return self.task.collate_groups(rows)
        if self.row_tokens:
            return self.task.collate_packed(cast(Sequence[Sequence[Example]], rows))
        return self.task.collate([sample for (sample,) in rows])
