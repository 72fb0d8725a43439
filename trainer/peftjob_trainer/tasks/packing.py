"""Whether a model keeps the examples of a row apart, which `dataset.packing` needs. Used by `session`.

What a model does with restarting positions is seen from outside: attention of most is bounded by them, recurrences and
convolutions run on over them, and some models take positions and mask by other things.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from peftjob_api import Reason

from ..exits import TrainerError

_PART: Final = 8
"""Tokens of an example that is tried: more than a convolution of these models is wide."""
_SEEN: Final = {torch.float32: 1e-6, torch.bfloat16: 0.01}
"""Of the largest logit: an example before another changes nothing at all but, at most, how experts round."""
_MOVED: Final = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Of the largest logit: rounding of sums over other places."""


def check_takes_positions(model: Any) -> None:
    """Raise for a model, also one without data, that can be told no positions.

    Raises:
        TrainerError: `INVALID_CONFIG`.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise _refused(type(model).__name__, "it takes no position_ids")


@torch.no_grad()
def check_keeps_apart(model: Any, autocast: Callable[[], AbstractContextManager[Any]], device: torch.device) -> None:
    """Raise unless an example has the same logits whatever stands before it, and wherever it stands.

    One forward pass of three short rows, the same on all ranks.

    Args:
        model: With data.
        autocast: The context of its computations.
        device: Where it computes.

    Raises:
        TrainerError: `INVALID_CONFIG`.
    """
    vocabulary = model.config.get_text_config().vocab_size
    chance = torch.Generator().manual_seed(0)
    one, two, tried = torch.randint(0, vocabulary, (3, _PART), generator=chance)
    rows = torch.stack([torch.cat(row) for row in ((one, tried), (two, tried), (tried, one))]).to(device)
    positions = torch.arange(_PART, device=device).repeat(2).expand_as(rows)
    was_training = model.training
    model.eval()
    with autocast():
        logits = model(input_ids=rows, position_ids=positions).logits.float()
    model.train(was_training)
    after_one, after_two, first = logits[0, _PART:], logits[1, _PART:], logits[2, :_PART]
    dtype, largest = next(p.dtype for p in model.parameters() if not p.requires_grad), float(logits.abs().max())
    if float((after_one - after_two).abs().max()) > _SEEN[dtype] * largest:
        raise _refused(_name(model), "it lets an example see the one before it")
    if float((after_one - first).abs().max()) > _MOVED[dtype] * largest:
        raise _refused(_name(model), "it takes an example for another one where it does not begin the row")


def _name(model: Any) -> str:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(inner).__name__


def _refused(model: str, why: str) -> TrainerError:
    return TrainerError(
        Reason.INVALID_CONFIG,
        f"spec.dataset.packing: {model} cannot keep the examples of a row apart, since {why}: remove packing, or use "
        f"another base model",
    )
