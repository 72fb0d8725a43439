"""Where adapters go: the attention and the feed-forward networks of a model's blocks, found by its structure.

A block is an item of an outermost list of modules. Its projections (linear modules, in the order that the block lists
them) belong to an attention if a part of their name says so, else to the feed-forward network. The last projection of
each makes its output, before dropout, residual and norm: where Houlsby et al. have their adapters.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Sublayer:
    """An attention or a feed-forward network in a block."""

    kind: str
    """`attention` or `mlp`."""
    entry: nn.Module
    """Its input is the sublayer's."""
    exit: nn.Module
    """Its output is the sublayer's."""


def sublayers(model: nn.Module) -> list[Sublayer]:
    """Return the sublayers of all blocks, in the order of the model."""
    return [sublayer for block in _blocks(model) for sublayer in _of_block(block)]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from child.children() if isinstance(child, nn.ModuleList) else _blocks(child)


def _of_block(block: nn.Module) -> Iterator[Sublayer]:
    """Yield the sublayers of a block, of which a decoder's with cross attention has three."""
    found: dict[str, list[nn.Module]] = {}
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            found.setdefault(_attention(name), []).append(module)
    mlp = found.pop("", [])
    for projections in found.values():
        yield Sublayer("attention", projections[0], projections[-1])
    experts = _experts(block)
    if experts is not None:
        yield Sublayer("mlp", experts, experts)
    elif mlp:
        yield Sublayer("mlp", mlp[0], mlp[-1])


def _attention(name: str) -> str:
    """Return the part of a projection's name up to its attention, or nothing if it belongs to none."""
    parts = name.split(".")
    for at, part in enumerate(parts[:-1]):
        if "attn" in part.lower() or "attention" in part.lower():
            return ".".join(parts[: at + 1])
    return ""


def _experts(block: nn.Module) -> nn.Module | None:
    """Return the child of a block that deals its input to experts: no projection in it makes its output."""
    for child in block.children():
        if any("expert" in name.lower().rpartition(".")[2] for name, _ in child.named_modules() if name):
            return child
    return None
