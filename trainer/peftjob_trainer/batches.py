"""From examples to the tensors of each micro step. Called by `train` and `evaluate`; computed alike on every rank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.distributed as dist

from .data import Example
from .order import deal_by_length, pack


@dataclass(frozen=True)
class Batching:
    """How examples become batches."""

    task: ModuleType
    pad: int
    """Token id of padding."""
    micro_batch: int
    """Rows that one device computes at once."""
    row_tokens: int | None
    """Tokens up to which examples share a row; None: each has a row of its own."""
    device: torch.device

    def micro_batches(
        self, examples: Sequence[Example], at_once: int = 1
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield this rank's micro batches: the indices of the examples and their tensors, on the device.

        Every rank gets equally many. One without examples computes the shortest of all with nothing supervised.

        Args:
            examples: Of a global batch, or a split, the same on all ranks.
            at_once: Micro batches that are computed as one.
        """
        rank, world = dist.get_rank(), dist.get_world_size()
        lengths = [len(example.input_ids) for example in examples]
        shortest = [[min(range(len(examples)), key=lengths.__getitem__)]]
        rows = pack(lengths, self.row_tokens, world) if self.row_tokens else [[i] for i in range(len(examples))]
        tokens = [sum(lengths[i] for i in row) for row in rows]
        for chosen in deal_by_length(tokens, rank, world, self.micro_batch * at_once):
            own = [rows[row] for row in chosen]
            batch = self._collate([[examples[i] for i in row] for row in own or shortest])
            batch = batch if own else self.task.silence(batch)
            yield [i for row in own for i in row], {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _collate(self, rows: Sequence[Sequence[Example]]) -> dict[str, torch.Tensor]:
        if self.row_tokens:
            return dict(self.task.collate_packed(rows, self.pad))
        return dict(self.task.collate([example for (example,) in rows], self.pad))
