"""Whether a checkpoint is of this very job, so that going on from it gives what never stopping gives; pure.

The spec of a PeftJob cannot change once it has started, but data and base may be replaced where they lie, and the
trainer by another version.
"""

from collections.abc import Mapping
from typing import Any, Final

from peftjob_api import Reason

from ..exits import TrainerError
from ..resolve import ResolvedSpec

_PARTS: Final = ("baseModel", "task", "method", "dataset", "training")
_NO_MATTER: Final = frozenset({"training.logEverySteps", "training.microBatchSize", "training.gradientCheckpointing"})
_ABSENT: Final = "absent"
_MAX_SHOWN: Final = 3


def numerics(spec: ResolvedSpec, precision: str, examples: int) -> dict[str, Any]:
    """Return what the numbers of a run depend on: dotted name -> value, as JSON has it.

    Workers, shard group and micro batches are not among them: they change no number beyond rounding.

    Args:
        spec: With nothing left open.
        precision: Of the base, which `Auto` leaves open.
        examples: Of the training data.
    """
    wire = spec.to_wire()
    found = _flat({part: wire[part] for part in _PARTS if part in wire})
    found = {name: value for name, value in found.items() if name not in _NO_MATTER}
    return {**found, "training.precision": precision, "examples of dataset.train": examples}


def check_suits(
    uri: str,
    job: tuple[Mapping[str, Any], Mapping[str, Any]],
    shapes: tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]],
) -> None:
    """Make sure that a checkpoint is of this job.

    Args:
        uri: Of the checkpoint.
        job: What its numbers depend on, and what this job's do.
        shapes: Of what was trained, and of what is.

    Raises:
        TrainerError: `CHECKPOINT_UNSUITABLE`, naming what differs.
    """
    # A version of the trainer may know settings that another does not.
    known = job[0].keys() & job[1].keys()
    theirs, own = ({name: value for name, value in each.items() if name in known} for each in job)
    differing = [*_differences(theirs, own), *_differences(*shapes)]
    if not differing and list(shapes[0]) != list(shapes[1]):
        differing = ["the order of its parameters is another"]
    if not differing:
        return
    more = f" and {len(differing) - _MAX_SHOWN} more" if len(differing) > _MAX_SHOWN else ""
    raise TrainerError(
        Reason.CHECKPOINT_UNSUITABLE,
        f"{uri}: this checkpoint is not of the job as it is now: {'; '.join(differing[:_MAX_SHOWN])}{more}: to begin "
        f"with step 0, delete the PeftJob and create it anew; to go on, first put back what was changed (data or base "
        f"that were replaced, another trainer image)",
    )


def _differences(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {theirs.get(name, _ABSENT)}, is {own.get(name, _ABSENT)}"
        for name in [*theirs, *(n for n in own if n not in theirs)]
        if theirs.get(name, _ABSENT) != own.get(name, _ABSENT)
    ]


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the leaves of a tree of mappings by their dotted names."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{before}{name}.")
        else:
            found[before + name] = item
    return found
