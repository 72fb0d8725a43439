"""From a job to what it needs of each rank, before any weight is read. Called by `session` and by `plan`."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peftjob_api import PeftJobSpec

from ..data import Example, Sample, Splits
from ..order import DEFAULT_MICRO_BATCH, pack
from ..resolve import ResolvedSpec
from ..sharding.zero3 import blocks
from ..tasks import Task, task_of
from ..tasks.common import TOKEN, prepended
from .demand import Demand
from .dry_run import Batch, Peak, peak_of
from .memory import runtime_bytes
from .paper import model_on_paper
from .writing import largest_writing, writing

log = logging.getLogger(__name__)

_AT_ONCE: Final = 256


@dataclass(frozen=True)
class Inputs:
    """What is known of a job beside its spec."""

    folder: Path
    """With the base's config."""
    pad: int
    """Token id of padding."""
    automatic: torch.dtype
    """What the precision `Auto` means."""
    splits: Splits | None = None
    """The data; None: as long as `dataset.maxLength` allows, and all of it supervised."""
    processor: Any = None
    """Of the base; needed for images only, whose size it decides."""

    def labels(self, spec: PeftJobSpec) -> list[str] | None:
        """Return the names of the classes; two, while nobody knows."""
        if self.splits is not None:
            return self.splits.labels
        classifies = "Classification" in spec.task.type and spec.task.kind != "SequenceClassification/Regression"
        return (spec.task.labels or ["0", "1"]) if classifies else None

    def task(self, spec: PeftJobSpec) -> Task:
        """Return the job's task."""
        return task_of(spec, self.pad, self.labels(spec), self.processor)

    def dtype(self, spec: PeftJobSpec) -> torch.dtype:
        """Return the base's dtype."""
        chosen = {"FP32": torch.float32, "BF16": torch.bfloat16}
        return chosen.get(spec.training.precision, self.automatic)


def estimate(spec: ResolvedSpec, inputs: Inputs) -> Demand:
    """Return what a job needs; takes about a second, whatever the size of the model.

    Raises:
        TrainerError: `INVALID_CONFIG` or `TARGET_MODULES_NOT_FOUND`: there is no such model.
    """
    model = model_on_paper(spec, inputs.folder, inputs.dtype(spec), inputs.labels(spec), inputs.pad)
    accelerated = bool(spec.workers.accelerators)
    peak, is_rough = step_peak(model, spec, inputs)
    parameters = list(model.parameters())
    return Demand(
        base=Counter((p.numel(), p.element_size()) for p in parameters if not p.requires_grad),
        buffers=sum(b.numel() * b.element_size() for b in model.buffers()),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        # The best step's adapter is kept in the host's memory.
        copies=int(spec.dataset.has_validation and not accelerated),
        whole=peak.whole,
        sharded=peak.sharded,
        runtime=runtime_bytes(accelerated=accelerated),
        is_rough=is_rough,
        writing=writing(model, inputs.task(spec), spec, _validated(inputs.splits)),
    )


def step_peak(model: Any, spec: ResolvedSpec, inputs: Inputs) -> tuple[Peak, bool]:
    """Return the peak of training and evaluations together, and whether it is a guess."""
    task = inputs.task(spec)
    accelerated = bool(spec.workers.accelerators)
    training, evaluation = largest_batches(spec, inputs.splits, task)
    try:
        peaks = [peak_of(model, task, training, training=True, accelerated=accelerated)]
        if evaluation is not None:
            peaks.append(peak_of(model, task, evaluation, training=False, accelerated=accelerated))
        written = largest_writing(task, spec, _evaluated(spec, inputs.splits, task) or None)
        if written is not None:
            peaks.append(peak_of(model, *written, training=False, accelerated=accelerated))
    except Exception as error:  # of any model's code: a job must not end for want of an estimate
        log.warning("plan: the model does not run without data (%s): activations are only roughly right", error)
        return rough_peak(model, training), True
    return Peak(max(p.whole for p in peaks), max(p.sharded for p in peaks)), False


def _evaluated(spec: ResolvedSpec, splits: Splits | None, task: Task) -> list[Sample]:
    """Return the largest sample of each split that is evaluated, if they are known; each sample is read once."""
    found = (splits.validation, splits.test) if splits else ()
    return [_largest(task, split.examples, spec.dataset.max_length) for split in found if split]


def _largest(task: Task, samples: Sequence[Sample], limit: int) -> Sample:
    """Return a sample that costs as much memory as any, reading some at a time: no rank may hold the data."""
    starts = range(0, len(samples), _AT_ONCE)
    return task.largest([task.largest(list(samples[start : start + _AT_ONCE]), limit) for start in starts], limit)


def _validated(splits: Splits | None) -> int | None:
    """Return how many samples the validation data has."""
    return len(splits.validation.examples) if splits and splits.validation else None


def rough_peak(model: Any, batch: Batch) -> Peak:
    """Return a guess: what goes into and out of every linear module is kept in fp32, and the largest block gathered."""
    widths = sum(m.in_features + m.out_features for m in model.modules() if isinstance(m, torch.nn.Linear))
    kept = batch.rows * (batch.example.length + prepended(model)) * widths * 4
    largest = max((sum(p.numel() * p.element_size() for p in b.parameters()) for b in blocks(model)), default=0)
    return Peak(kept, kept + 2 * largest)


def largest_batches(spec: ResolvedSpec, splits: Splits | None, task: Task) -> tuple[Batch, Batch | None]:
    """Return the most that a rank computes at once in training, and in an evaluation if there is any; pure."""
    training, world = spec.training, spec.workers.world_size
    micro = training.micro_batch_size or min(DEFAULT_MICRO_BATCH, training.batch_size)
    count = min(training.batch_size, len(splits.train.examples)) if splits else training.batch_size
    longest = spec.dataset.max_length
    example = _largest(task, splits.train.examples, longest) if splits else task.largest(None, longest)
    if spec.dataset.packing and splits:
        example, count = _packed(spec, splits.train.lengths, count)
    trained = Batch(example, min(micro, -(-count // world)), spec.dataset.packing)
    if not spec.dataset.has_validation and not spec.dataset.has_test:
        return trained, None
    found = [split.lengths for split in (splits.validation, splits.test) if split] if splits else []
    most = max((len(lengths) for lengths in found), default=micro * task.evaluation_batches * world)
    example = task.largest(_evaluated(spec, splits, task) or None, spec.dataset.max_length)
    if spec.dataset.packing and splits:
        example, most = _packed(spec, [length for lengths in found for length in lengths], most)
    rows = min(micro * task.evaluation_batches, -(-most // world))
    return trained, Batch(example, rows, spec.dataset.packing)


def _packed(spec: PeftJobSpec, lengths: Sequence[int], count: int) -> tuple[Example, int]:
    """Return the longest row of so many of the longest examples together, all supervised, and the number of rows."""
    lengths = sorted(lengths, reverse=True)[:count]
    rows = pack(lengths, spec.dataset.max_length, spec.workers.world_size)
    ids = (TOKEN,) * max(sum(lengths[i] for i in row) for row in rows)
    return Example(ids, ids), len(rows)
