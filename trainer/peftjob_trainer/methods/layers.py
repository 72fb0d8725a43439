"""Which linear modules a method adapts, and what it finds in them. Used by the methods that peft has."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peftjob_api import Reason
from peftjob_api.low_rank_methods import ALL_LINEAR
from transformers.pytorch_utils import Conv1D

from ..exits import TrainerError

_LINEAR = (torch.nn.Linear, Conv1D)
_MAX_SHOWN = 20


def linear_targets(model: Any, wanted: Sequence[str], field: str) -> str | list[str]:
    """Return peft's `target_modules` for linear modules, after a look whether they are there.

    Args:
        model: From transformers.
        wanted: Names, last parts of dotted names, or `all-linear` alone.
        field: Of the spec, for messages.

    Raises:
        TrainerError: `TARGET_MODULES_NOT_FOUND`.
    """
    if ALL_LINEAR in wanted:
        return ALL_LINEAR
    linear = {name for name, module in model.named_modules() if isinstance(module, _LINEAR)}
    missing = [target for target in wanted if not any(_matches(name, target) for name in linear)]
    if missing:
        raise TrainerError(
            Reason.TARGET_MODULES_NOT_FOUND,
            f"no linear module of the base model is named {', '.join(missing)}: set {field} to some of "
            f"{linear_names(model)}, or to {ALL_LINEAR}",
        )
    return list(wanted)


def names_of_all_linear(model: Any, head: Sequence[str]) -> list[str]:
    """Return the names of all linear modules but the output head and those of a task's."""
    output = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _LINEAR) and module is not output and name.split(".")[0] not in head
    ]


def linear_names(model: Any) -> str:
    """Return the last parts of the names of linear modules, for messages."""
    names = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, _LINEAR)})
    return ", ".join(names[:_MAX_SHOWN]) + (" ..." if len(names) > _MAX_SHOWN else "")


def pattern(model: Any, given: Mapping[str, Any] | None, field: str) -> dict[str, Any]:
    """Return peft's pattern, which has regular expressions, for a map from names of modules; see `linear_targets`."""
    if not given:
        return {}
    linear_targets(model, list(given), field)
    return {re.escape(name): value for name, value in given.items()}


def adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules that peft put around those of the base, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name, module


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
