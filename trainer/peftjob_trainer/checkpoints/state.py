"""What a run is between two steps, in full: the same whatever the number of ranks and the shard group.

What is not here is a function of the step: the samples of each step, the learning rate, and all randomness.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from peftjob_api import Reason
from safetensors.numpy import save_file
from safetensors.torch import load

from ..exits import TrainerError
from ..history import BaseBytes, EvalRecord, History, Return
from ..steps import StepRecord, Steps

METHOD: Final = "method."
"""Begins the names of tensors of the method's own."""
_ABOUT, _STEPS, _BEST = "about", "history", "best"
_COLUMNS: Final = tuple(column.name for column in fields(StepRecord))


@dataclass(frozen=True)
class TrainingState:
    """A run after a step."""

    step: int
    job: Mapping[str, Any]
    """What its numbers depend on: see `suits`."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of what is trained, by name, in the order of the flat tensors."""
    tensors: Mapping[str, torch.Tensor]
    """Those of `Sharded.state`, and of `Method.running_state` under `METHOD`; on the CPU."""
    history: History
    """All steps and evaluations up to here."""
    best_step: int | None = None
    """The step of the best evaluation so far."""
    best: torch.Tensor | None = None
    """What was trained after that step, flat, fp32."""


def check_finite(state: TrainingState) -> None:
    """Raise unless all numbers of a state are finite: from others nobody should go on.

    Raises:
        TrainerError: `NON_FINITE_LOSS`.
    """
    for name, tensor in state.tensors.items():
        if not tensor.isfinite().all():
            raise TrainerError(Reason.NON_FINITE_LOSS, f"{name!r} holds a number that is not finite")


def told_sizes(state: TrainingState) -> str:
    """Return what a state costs, for people: the bytes of its tensors by what they are."""
    kinds = {"trained": 0, "moments": 0, "of the method": 0}
    for name, tensor in state.tensors.items():
        kind = "trained" if name == "trained" else "of the method" if name.startswith(METHOD) else "moments"
        kinds[kind] += tensor.nbytes
    return ", ".join(f"{size / 1e6:.2f} MB {kind}" for kind, size in kinds.items() if size)


def write_state(state: TrainingState, path: Path) -> None:
    """Write a state but for `best`: three times what is trained, the method's own, seven numbers for each step kept."""
    about = {
        "step": state.step,
        "job": state.job,
        "shapes": list(state.shapes.items()),
        "evaluations": [asdict(record) for record in state.history.evaluations],
        "baseBytes": asdict(state.history.base_bytes) if state.history.base_bytes else None,
        "bestStep": state.best_step,
        "returns": [asdict(each) for each in state.history.returns],
        "steps": state.history.steps.totals,
    }
    rows = [[float(getattr(record, column)) for column in _COLUMNS] for record in state.history.steps]
    own = {
        _ABOUT: torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8),
        _STEPS: torch.tensor(rows, dtype=torch.float64).view(-1, len(_COLUMNS)),
    }
    _save({**state.tensors, **own}, path)


def write_best(best: torch.Tensor, path: Path) -> None:
    """Write what was trained at the best step."""
    _save({_BEST: best}, path)


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors of dtypes that numpy knows.

    `safetensors.torch` looks at each by a ctypes array, whose type ctypes keeps for ever: two kilobytes for each size
    that there ever was, and what is told of steps has another one in each checkpoint.
    """
    save_file({name: tensor.contiguous().numpy() for name, tensor in tensors.items()}, path)


def read_state(data: bytes, best: bytes | None) -> TrainingState:
    """Read what `write_state` and `write_best` wrote; both have been verified."""
    tensors = load(data)
    about = json.loads(tensors.pop(_ABOUT).numpy().tobytes())
    rows = [dict(zip(_COLUMNS, row, strict=True)) for row in tensors.pop(_STEPS).tolist()]
    records = [StepRecord(**{**row, "step": int(row["step"])}) for row in rows]
    return TrainingState(
        step=about["step"],
        job=about["job"],
        shapes={name: tuple(shape) for name, shape in about["shapes"]},
        tensors=tensors,
        history=History(
            Steps.restored(records, about["steps"]) if "steps" in about else Steps.of(records),
            [EvalRecord(**record) for record in about["evaluations"]],
            BaseBytes(**about["baseBytes"]) if about["baseBytes"] else None,
            [Return(**each) for each in about.get("returns", ())],
        ),
        best_step=about["bestStep"],
        best=load(best)[_BEST] if best is not None else None,
    )
