"""What to say when a job fits nowhere: the numbers, and which changes would make it fit, found by planning them.

Pure but for the estimates of changed jobs, which the caller provides. Called by `session` and by the command `plan`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from peftjob_api import Reason

from ..exits import TrainerError
from ..order import DEFAULT_MICRO_BATCH
from ..resolve import ResolvedSpec
from .choose import RESERVE, Option, choose, named, options, size, topology_of, usable
from .demand import Demand
from .memory import LAUNCHER

_MAX_NODES: Final = 1024
"""As the API has it."""
_SHORTER: Final = (2, 4)
"""By which maxLength is divided, until it fits."""

Estimate = Callable[[ResolvedSpec], Demand]
Change = tuple[str, ResolvedSpec]


def does_not_fit(spec: ResolvedSpec, found: Sequence[Option], demand: Demand, estimate: Estimate) -> TrainerError:
    """Return the error that says what a job needs, what there is, and what would fit.

    Args:
        spec: Of the job.
        found: Its options, none of which fits.
        demand: Of the job.
        estimate: Returns the demand of a changed job.
    """
    best = min(found, key=lambda option: option.parts.total)
    where = "GPU" if spec.workers.accelerators else "process"
    parts = ", ".join(f"{name} {size(number)}" for name, number in vars(best.parts).items())
    changes = [*_changes(spec, demand, best.memory, estimate), _more_memory(spec, best.parts.total)]
    return TrainerError(
        Reason.DOES_NOT_FIT,
        f"the job needs {size(best.parts.total)} on each {where} even in shard group {named(best.group)}, and may use "
        f"{size(usable(best.memory))} of {size(best.memory)} ({parts}); what would fit: {'; or '.join(changes)}",
    )


def _changes(spec: ResolvedSpec, demand: Demand, memory: int, estimate: Estimate) -> Iterator[str]:
    """Yield changes each of which alone makes the job fit; failing that, all that save memory together."""

    def fits(changed: ResolvedSpec, needed: Demand | None = None) -> bool:
        needed = needed or estimate(changed)
        return choose(options(needed, topology_of(changed), memory, changed.sharding)) is not None

    found = [
        *(text for text, changed in _other_group(spec) if fits(changed, demand)),
        *_least_nodes(spec, demand, memory),
        *(next((text for text, changed in ladder if fits(changed)), "") for ladder in _savings(spec)),
    ]
    if any(found):
        yield from filter(None, found)
        return
    everything = _frugal(spec)
    needed = estimate(everything)
    saved = "gradientCheckpointing, microBatchSize 1 and precision BF16 together"
    if fits(everything, needed):
        yield saved
    else:
        yield from (f"{nodes} with {saved}" for nodes in _least_nodes(everything, needed, memory))


def _other_group(spec: ResolvedSpec) -> Iterator[Change]:
    if spec.sharding != "Auto":
        yield "sharding Auto", spec.model_copy(update={"sharding": "Auto"})


def _least_nodes(spec: ResolvedSpec, demand: Demand, memory: int) -> Iterator[str]:
    """Yield the least number of nodes that is enough, if there is one; only `Auto` and `Full` gain from more."""
    if spec.sharding not in ("Auto", "Full"):
        return
    for nodes in range(spec.workers.nodes + 1, _MAX_NODES + 1):
        if demand.on(nodes * spec.workers.ranks_per_node).total <= usable(memory):
            yield f"workers.nodes {nodes}"
            return


def _savings(spec: ResolvedSpec) -> Iterator[list[Change]]:
    """Yield ladders of changes that save memory on each rank; of each the first that fits is the one to name."""
    training = spec.training
    if not training.gradient_checkpointing:
        yield [("training.gradientCheckpointing true", _changed(spec, "training", gradient_checkpointing=True))]
    rows = min(training.micro_batch_size or DEFAULT_MICRO_BATCH, training.batch_size)
    smaller = [rows >> shift for shift in range(1, rows.bit_length())]
    yield [(f"training.microBatchSize {n}", _changed(spec, "training", micro_batch_size=n)) for n in smaller]
    if training.precision == "FP32" or (training.precision == "Auto" and not spec.workers.accelerators):
        yield [("training.precision BF16", _changed(spec, "training", precision="BF16"))]
    shorter = [spec.dataset.max_length // divisor for divisor in _SHORTER]
    yield [(f"dataset.maxLength {n}", _changed(spec, "dataset", max_length=n)) for n in shorter if n >= 4]


def _frugal(spec: ResolvedSpec) -> ResolvedSpec:
    """Return a spec with everything that saves memory and leaves the data as it is."""
    return _changed(spec, "training", gradient_checkpointing=True, micro_batch_size=1, precision="BF16")


def _more_memory(spec: ResolvedSpec, peak: int) -> str:
    """Say how much memory this very job needs."""
    each = peak / (1 - RESERVE)
    if spec.workers.accelerators:
        return f"GPUs of {size(each)}"
    pod = each * spec.workers.ranks_per_node + LAUNCHER
    return f"{size(pod)} of memory for each pod (the container's limit in spec.workers.podTemplate)"


def _changed(spec: ResolvedSpec, part: str, **fields: Any) -> ResolvedSpec:
    """Return a spec with other values in one of its parts."""
    return spec.model_copy(update={part: getattr(spec, part).model_copy(update=fields)})
