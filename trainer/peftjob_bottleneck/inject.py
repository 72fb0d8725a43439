"""Puts bottleneck layers into a model from transformers. Called by `files.load` and by the trainer."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import nn

from .layer import Bottleneck
from .places import Sublayer, sublayers

NAME: Final = "bottleneck"
"""Of the submodule that an adapter is, in the module whose output it adds to."""


@dataclass(frozen=True)
class Settings:
    """What a model's adapters are."""

    style: Literal["Houlsby", "Pfeiffer", "Parallel"]
    """After attention and feed-forward network, after the latter, or beside it."""
    reduction_factor: int
    nonlinearity: str
    scale: float
    dropout: float


def inject(model: Any, settings: Settings) -> list[str]:
    """Put adapters into a model, and return the names of their modules.

    They are submodules of the base's own, which keep their classes and names.

    Raises:
        ValueError: There is no place for an adapter.
    """
    wanted = ("attention", "mlp") if settings.style == "Houlsby" else ("mlp",)
    places = [place for place in sublayers(model) if place.kind in wanted]
    if not places:
        raise ValueError(f"{type(model).__name__} has no blocks with linear modules")
    for place in places:
        _add(place, settings, getattr(model.config.get_text_config(), "hidden_size", 0))
    made = {id(getattr(place.exit, NAME)) for place in places}
    return [name for name, module in model.named_modules() if id(module) in made]


def _add(place: Sublayer, settings: Settings, hidden_size: int) -> None:
    width = _width(place.exit, hidden_size)
    inner = max(1, width // settings.reduction_factor)
    adapter = Bottleneck(width, inner, settings.nonlinearity, settings.scale, settings.dropout)
    place.exit.add_module(NAME, adapter.to(next(place.exit.parameters()).device))
    if settings.style == "Parallel":
        place.entry.register_forward_pre_hook(_Keep(place.exit), with_kwargs=True)
        place.exit.register_forward_hook(_add_beside)
    else:
        place.exit.register_forward_hook(_add_after)


def _width(module: nn.Module, hidden_size: int) -> int:
    """Return the width of a module's output; `Conv1D` of transformers is a linear module with another name for it."""
    return int(getattr(module, "out_features", getattr(module, "nf", hidden_size)))


class _Keep:
    """Keeps what goes into a sublayer until its output is there. A class, so that a copied model gets its own."""

    def __init__(self, owner: nn.Module) -> None:
        self._owner = owner

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Keep the first argument."""
        self._owner.sublayer_input = inputs[0] if inputs else named["hidden_states"]


def _add_beside(module: Any, inputs: Any, output: Any) -> Any:
    """Add what the adapter makes of the sublayer's input."""
    hidden, module.sublayer_input = module.sublayer_input, None
    return _plus(output, module.bottleneck(hidden))


def _add_after(module: Any, inputs: Any, output: Any) -> Any:
    """Add what the adapter makes of the sublayer's output."""
    return _plus(output, module.bottleneck(output[0] if isinstance(output, tuple) else output))


def _plus(output: Any, added: torch.Tensor) -> Any:
    """Add to a module's output; some give a tuple with more than the hidden states."""
    return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added
