"""Of what tensors a merged model is made: told from headers and the adapted model before training. Used by `write`.

A tensor that the method leaves alone is that of the base's files, byte for byte and under its own key, also where
transformers makes one parameter of several of them. One that the method changes keeps key and dtype, and must be a
tensor of the files by itself. A new head, or a module that is trained whole, takes the place of the base's.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peftjob_api import Reason

from ..exits import TrainerError
from ..sharding.segments import DTYPES, Segments, stored_tensors
from ..sharding.values import deal
from ..storage.weights import Weights

NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""Of dtypes in a header."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the merged model."""

    key: str
    dtype: str
    """As a header has it."""
    shape: tuple[int, ...]
    file: str = ""
    """Of the base, with the bytes; empty for one that is computed, or trained."""
    offset: int = 0
    name: str = ""
    """Of the parameter in the base model, if it is computed or trained."""
    nbytes: int = 0


Place = tuple[torch.nn.Module, str]
"""A module, and the name of one of its parameters, which may be replaced by another while the model is filled."""


@dataclass(frozen=True)
class Unit:
    """What one rank writes at once: a tensor, or all those of a layer that the method changes."""

    tensors: tuple[Tensor, ...]
    layer: Any = None
    """peft's, if its tensors are computed."""
    trained: Place | None = None
    """Where a tensor that is trained itself is found."""

    @property
    def nbytes(self) -> int:
        """Of all its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)


def units(model: Any, segments: Segments, weights: Weights, prefix: str) -> list[Unit]:
    """Return everything that the merged model is made of.

    Args:
        model: With the method in it.
        segments: Of the base model before that.
        weights: Its files.
        prefix: In which the names of a base and a task model differ (`base_model_prefix`).

    Raises:
        TrainerError: `INVALID_CONFIG`: the method changes a tensor that is tied to another, or that the files hold in
            several pieces.
    """
    stored = stored_tensors(weights.files)
    layers, trained = changed(model)
    ties = tied(model)
    elements: Counter[torch.dtype] = Counter()
    for tensor in stored.values():
        elements[tensor.dtype] += math.prod(tensor.shape)
    usual = elements.most_common(1)[0][0]  # of what is new
    replaced: set[str] = set()
    known = segments.layouts.keys() | segments.missing

    def key_of(key: str) -> str:
        return f"{prefix}.{key}" if key not in known and f"{prefix}.{key}" in known else key

    def own(name: str) -> Tensor:
        if name in ties:
            raise _refused(name, "is tied to another parameter, which would change with it")
        layout = segments.layouts.get(name)
        if name in segments.missing or name in segments.mismatched or layout is None:
            if name not in trained:
                raise _refused(name, "is computed from several tensors of the base's files")
            return _tensor(name, NAMES[usual], tuple(getattr(*trained[name]).shape), name=name)
        tensor = layout.runs[0].tensor if layout.runs else None
        if tensor is None or len(layout.runs) > 1 or tuple(layout.shape) != tensor.shape:
            raise _refused(name, "is made of several tensors, or a part of one, of the base's files")
        replaced.add(tensor.name)
        return _tensor(key_of(tensor.name), NAMES[tensor.dtype], tensor.shape, name=name)

    found = [Unit(tuple(own(name) for name in own_names), layer) for own_names, layer in layers.values()]
    inside = {name for own_names, _ in layers.values() for name in own_names}
    found += [Unit((own(name),), trained=place) for name, place in trained.items() if name not in inside]
    dropped = (
        replaced
        | set(segments.unused)
        | {run.tensor.name for name in segments.mismatched for run in segments.layouts[name].runs}
    )
    for tensor in stored.values():
        if tensor.name not in dropped:
            entry = weights.files[tensor.file].tensors[tensor.name]
            plain = _tensor(key_of(tensor.name), entry["dtype"], tensor.shape, file=tensor.file, offset=tensor.offset)
            found.append(Unit((plain,)))
    return found


def changed(model: Any) -> tuple[dict[str, tuple[list[str], Any]], dict[str, Place]]:
    """Return what a method changes of a model, by names in the base.

    Returns:
        Path of a layer -> names of its parameters and peft's layer; name -> place of a parameter that is trained
        itself. A layer's bias may be both.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers: dict[str, tuple[list[str], Any]] = {}
    trained: dict[str, Place] = {}
    for path, module in _modules(inner):
        if isinstance(module, ModulesToSaveWrapper):
            whole = module.modules_to_save[module.active_adapters[0]]
            trained |= {f"{path}.{name}": place for name, place in _places(whole).items()}
            continue
        if isinstance(module, BaseTunerLayer):
            base = module.get_base_layer()
            place = path.removesuffix(".token_adapter")
            layers[place] = ([f"{place}.{key}" for key, _ in base.named_parameters()], module)
            trained |= {
                f"{place}.{k}": (base, k) for k, p in base._parameters.items() if p is not None and p.requires_grad
            }
            continue
        own = {key: p for key, p in module._parameters.items() if p is not None}
        trained |= {f"{path}.{key}": (module, key) for key, p in own.items() if p.requires_grad}
    return layers, trained


def _places(root: torch.nn.Module) -> dict[str, Place]:
    """Return where all parameters of a module are, by name."""
    return {
        f"{path}.{key}" if path else key: (module, key)
        for path, module in root.named_modules()
        for key, parameter in module._parameters.items()
        if parameter is not None
    }


def _modules(root: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield modules by path; what peft put in place of one is not looked into."""
    yield path, root
    if isinstance(root, ModulesToSaveWrapper | BaseTunerLayer):
        return
    for key, module in root.named_children():
        yield from _modules(module, f"{path}.{key}" if path else key)


def tied(model: Any) -> set[str]:
    """Return the names of parameters in the base model that are one with another, or shall be."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    pairs: dict[str, str] = inner.all_tied_weights_keys
    return {*pairs.keys(), *pairs.values()}


def dealt(found: Sequence[Unit], writers: int) -> list[list[Unit]]:
    """Return who writes what: the largest first, each to whoever has least; a shard file is in the order of keys."""
    by_key = {unit.tensors[0].key: unit for unit in found}
    hands = deal({key: unit.nbytes for key, unit in by_key.items()}, min(writers, len(by_key)))
    return [[by_key[key] for key in sorted(hand)] for hand in hands]


def _tensor(key: str, dtype: str, shape: tuple[int, ...], *, file: str = "", offset: int = 0, name: str = "") -> Tensor:
    return Tensor(key, dtype, shape, file, offset, name, math.prod(shape) * DTYPES[dtype].itemsize)


def _refused(name: str, why: str) -> TrainerError:
    return TrainerError(
        Reason.INVALID_CONFIG,
        f"spec.output.merge: the method changes {name}, which {why}, and so cannot be merged: leave it out of "
        f"spec.method, or set merge to false",
    )
