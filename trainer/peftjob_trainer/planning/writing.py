"""What it costs to let the model write in an evaluation: the base gathered for each token. Used by `estimate`."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from ..data import Sample
from ..order import DEFAULT_MICRO_BATCH
from ..resolve import ResolvedSpec
from ..tasks import Task
from ..tasks.cross_entropy import replaced
from .demand import Writing
from .dry_run import Batch, fakes, gathers


class AsWritten:
    """Stands for a task where a run without data is to do what writing does at its largest: all keys are kept."""

    def __init__(self, task: Task, tokens: int) -> None:
        """Take a task that writes so many tokens."""
        self._task, self._tokens = task, tokens

    def collate(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Return a batch with all that is written in it."""
        return self._task.collate([self._task.written(sample, self._tokens) for sample in samples])

    def loss_sum(self, model: Any, batch: dict[str, torch.Tensor]) -> tuple[Any, None]:
        """Return the model's outputs, with logits of the last token only."""
        labels = batch.pop("labels")
        if model.config.is_encoder_decoder:
            batch["decoder_input_ids"] = labels.clamp(min=0)
        head = model.get_output_embeddings()
        with replaced(head, lambda original, hidden: original(hidden[:, -1:])):
            return model(**batch, use_cache=True), None


def rows_of(spec: ResolvedSpec) -> int:
    """Return how many texts a rank writes at once."""
    return spec.training.micro_batch_size or min(DEFAULT_MICRO_BATCH, spec.training.batch_size)


def writing(model: Any, task: Task, spec: ResolvedSpec, samples: int | None) -> Writing | None:
    """Return the cost of `training.evaluation.generate`; None: it is not asked for.

    Args:
        model: On the meta device, with the method in it.
        task: Of the job.
        spec: Of the job.
        samples: In the validation data; None: not known.
    """
    settings = spec.training.evaluation.generate if spec.training.evaluation else None
    if settings is None:
        return None
    count = min(settings.max_samples, settings.max_samples if samples is None else samples)
    encoder = model.get_encoder() if model.config.is_encoder_decoder else torch.nn.Module()
    inside = {id(module) for module in encoder.modules()}
    seen = _Seen()
    model.eval()
    with fakes(model), torch.no_grad(), gathers(model, seen):
        as_written = AsWritten(task, 1)
        as_written.loss_sum(model, as_written.collate([task.largest(None, 1)]))
    return Writing(
        batches=-(-count // (rows_of(spec) * spec.workers.world_size)),
        tokens=settings.max_new_tokens,
        per_token=sum(nbytes for unit, nbytes in seen.sizes.items() if unit not in inside),
        per_batch=sum(nbytes for unit, nbytes in seen.sizes.items() if unit in inside),
    )


def largest_writing(task: Task, spec: ResolvedSpec, samples: Sequence[Sample] | None) -> tuple[AsWritten, Batch] | None:
    """Return what fills the memory most when the model writes, and stands for it in a run without data."""
    settings = spec.training.evaluation.generate if spec.training.evaluation else None
    if settings is None:
        return None
    rows = min(rows_of(spec), settings.max_samples)
    return AsWritten(task, settings.max_new_tokens), Batch(task.largest(samples, spec.dataset.max_length), rows)


class _Seen:
    """Adds up what is gathered; stands for a `Meter`."""

    def __init__(self) -> None:
        self.sizes: Counter[int] = Counter()

    def gather(self, unit: int, sizes: list[int]) -> None:
        self.sizes[unit] += sum(sizes)

    def release(self, unit: int) -> None:
        pass
