"""Operations on layouts against the same on tensors: the runs must name the elements that torch moves there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peftjob_trainer.sharding.layout import MAX_RUNS, Layout, NotContiguous, Stored


def stored(name: str, *shape: int) -> Stored:
    return Stored("model.safetensors", name, 0, torch.float32, shape)


def values(layout: Layout, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what the runs of a layout read."""
    parts = [tensors[r.tensor.name].flatten()[r.start : r.start + r.count] for r in layout.runs]
    return torch.cat(parts).view(layout.shape)


SHAPES = {"a": (4, 6, 2), "b": (4, 6, 2), "c": (4, 3, 2)}
FOLLOWED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "one after the other": lambda a, b, c: torch.cat([a, b], dim=0),
    "side by side": lambda a, b, c: torch.cat([a, c, b], dim=1),
    "from the back": lambda a, b, c: torch.cat([a, b], dim=-1),
    "stacked": lambda a, b, c: torch.stack([a, b]),
    "stacked within": lambda a, b, c: torch.stack([a, b], dim=1),
    "experts: stacks side by side": lambda a, b, c: torch.cat([torch.stack([a, b]), torch.stack([b, a])], dim=1),
    "halves": lambda a, b, c: torch.chunk(a, 2, dim=0)[1].contiguous(),
    "uneven chunks": lambda a, b, c: torch.chunk(a, 4, dim=1)[2],
    "halves within": lambda a, b, c: torch.chunk(a, 2, dim=1)[1],
    "sizes": lambda a, b, c: torch.split(a, [1, 3], dim=0)[1],
    "one index": lambda a, b, c: torch.unbind(a, dim=0)[2],
    "another shape": lambda a, b, c: a.reshape(-1, 12),
    "a dimension of one": lambda a, b, c: a.unsqueeze(1).transpose(0, 1).squeeze(0),
}


@pytest.mark.parametrize("operation", FOLLOWED.values(), ids=FOLLOWED.keys())
def test_what_moves_contiguous_elements_is_followed(operation: Callable[[Any, Any, Any], Any]) -> None:
    tensors = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    want = operation(*tensors.values())
    found = operation(*(Layout.of(stored(name, *shape)) for name, shape in SHAPES.items()))
    assert found.shape == want.shape
    assert torch.equal(values(found, tensors), want)


OTHERS: dict[str, Callable[[Any], Any]] = {
    "transpose": lambda a: torch.transpose(a, 0, 1),
    "permute": lambda a: a.permute(1, 0, 2),
    "arithmetic": lambda a: torch.add(a, 1),
    "index": lambda a: a[:, 1],
}


@pytest.mark.parametrize("operation", OTHERS.values(), ids=OTHERS.keys())
def test_anything_else_is_not(operation: Callable[[Any], Any]) -> None:
    with pytest.raises(NotContiguous):
        operation(Layout.of(stored("a", 4, 6, 2)))


def test_rows_in_turn_are_too_many_pieces() -> None:
    wide = [Layout.of(stored(name, MAX_RUNS, 2)) for name in "ab"]
    with pytest.raises(NotContiguous, match="pieces"):
        torch.cat(wide, dim=1)


def test_shapes_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        torch.cat([Layout.of(stored("a", 2, 3)), Layout.of(stored("b", 2, 4))], dim=0)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 7, 100])
def test_shares_cover_a_parameter_once(world: int) -> None:
    layout = torch.cat([Layout.of(stored(name, *shape)) for name, shape in SHAPES.items()], dim=1)
    size = -(-layout.numel() // world)
    found = []
    for rank in range(world):
        start, stop = min(rank * size, layout.numel()), min((rank + 1) * size, layout.numel())
        parts = list(layout.part(start, stop))
        assert [at for at, _ in parts] == [sum(run.count for _, run in parts[:n]) for n in range(len(parts))]
        found += [(run.tensor.name, element) for _, run in parts for element in range(run.start, run.start + run.count)]
    assert found == [(r.tensor.name, e) for r in layout.runs for e in range(r.start, r.start + r.count)]
