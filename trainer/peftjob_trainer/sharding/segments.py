"""Where the files hold each parameter of a model, told from headers alone. Used by `load`.

Keys are matched to parameters as transformers does when it loads a checkpoint: by its own renaming rules, by adding
or taking off the prefix in which a base and a task model differ, and by the conversions it declares for a model
(`WeightConverter`: experts that are stacked, projections that are fused). The conversions run on layouts in place of
tensors. One that also moves single elements (a transpose, arithmetic) is kept, to be run on whole tensors.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from ..storage.weights import WeightsFile
from .layout import Layout, NotContiguous, Stored

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
"""Of a file: those whose values stand for themselves. Narrower floats come with scales, in quantised models only."""


@dataclass(frozen=True)
class Conversion:
    """A conversion that needs whole tensors."""

    name: str
    """Of the parameter that stands for all those that come out."""
    converter: Any
    sources: Mapping[str, tuple[Stored, ...]]
    """Pattern of the converter -> tensors."""
    reason: str
    targets: frozenset[str] = frozenset()
    """Names in the model of all that comes out."""

    def run(self, model: Any, tensors: Mapping[Stored, Any]) -> dict[str, Any]:
        """Return what comes out, by name in the model, of tensors of any kind that the operations can be run on."""
        return convert(
            self.converter, self.name, model, {p: [tensors[s] for s in ss] for p, ss in self.sources.items()}
        )

    @property
    def stored(self) -> list[Stored]:
        """All tensors that go in."""
        return [tensor for tensors in self.sources.values() for tensor in tensors]


@dataclass
class Segments:
    """How a model is made of files. Names are those of `model.state_dict()`."""

    layouts: dict[str, Layout] = field(default_factory=dict)
    conversions: list[Conversion] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    """What the files lack; the second of two tied parameters often is."""
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    """Name -> shape in the files, shape in the model."""
    unused: list[str] = field(default_factory=list)
    """Keys of the files that the model has no place for."""
    unreadable: list[Stored] = field(default_factory=list)
    """Tensors whose dtype is not the model's kind of number."""


def convert(converter: Any, name: str, model: Any, inputs: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Run one of transformers' conversions.

    Args:
        converter: The declared one; it stays as it is.
        name: Of the first target in the model.
        model: On any device; some operations ask it for shapes.
        inputs: Pattern of the converter -> tensors, in their natural order.
    """
    own = deepcopy(converter)
    for pattern, tensors in inputs.items():
        for tensor in tensors:
            own.add_tensor(name, name, pattern, tensor)
    found = own.convert(name, model=model, config=model.config)
    return {target: value[0] if isinstance(value, list) else value for target, value in found.items()}


def stored_tensors(files: Mapping[str, WeightsFile]) -> dict[str, Stored]:
    """Return all tensors of some files by name; a dtype that is no plain number becomes a byte."""
    return {
        name: Stored(
            file,
            name,
            about.start + int(entry["data_offsets"][0]),
            DTYPES.get(entry["dtype"], torch.uint8),
            tuple(entry["shape"]),
        )
        for file, about in sorted(files.items())
        for name, entry in about.tensors.items()
    }


def find_segments(model: Any, files: Mapping[str, WeightsFile]) -> Segments:
    """Return where each parameter and persistent buffer of a model lies.

    Args:
        model: From transformers, on the meta device, with no parameters tied yet.
        files: Name -> what it holds.
    """
    wanted = model.state_dict()
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    prefix = model.base_model_prefix
    result = Segments()
    plain: dict[str, Stored] = {}
    grouped: dict[str, tuple[Any, dict[str, list[Stored]]]] = {}
    # The order and the second attempt are those of transformers.core_model_loading.
    for key, tensor in sorted(stored_tensors(files).items(), key=lambda item: dot_natural_key(item[0])):
        name, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
        if name not in wanted and key in wanted:
            name, pattern = rename_source_key(key, [], [], prefix, wanted)
        if name not in wanted:
            result.unused.append(key)
        elif pattern is None:
            plain[name] = tensor
        else:
            converter, sources = grouped.setdefault(name, (by_pattern[pattern], {}))
            sources.setdefault(pattern, []).append(tensor)
    found: dict[str, Any] = {name: Layout.of(tensor) for name, tensor in plain.items()}
    for name, (converter, sources) in grouped.items():
        try:
            found |= convert(converter, name, model, {p: [Layout.of(t) for t in ts] for p, ts in sources.items()})
        except (NotContiguous, TypeError, AttributeError) as error:
            reason = f"{', '.join(type(op).__name__ for op in converter.operations)} ({error})"
            conversion = Conversion(name, converter, {p: tuple(ts) for p, ts in sources.items()}, reason)
            shapes = {t: torch.empty(t.shape, dtype=wanted[name].dtype, device="meta") for t in conversion.stored}
            made = conversion.run(model, shapes)
            found |= made
            result.conversions.append(replace(conversion, targets=frozenset(made)))
    for name, value in found.items():
        if name not in wanted:
            result.unused.append(name)
            continue
        if isinstance(value, Layout):
            result.layouts[name] = value
        if tuple(value.shape) != tuple(wanted[name].shape):
            result.mismatched[name] = (tuple(value.shape), tuple(wanted[name].shape))
    result.missing = wanted.keys() - found.keys()
    plain_numbers = {name: e["dtype"] in DTYPES for about in files.values() for name, e in about.tensors.items()}
    for name, layout in result.layouts.items():
        for tensor in {run.tensor for run in layout.runs}:
            if not plain_numbers[tensor.name] or (
                wanted[name].dtype.is_floating_point != tensor.dtype.is_floating_point
            ):
                result.unreadable.append(tensor)
    for conversion in result.conversions:
        result.unreadable += [t for t in conversion.stored if not t.dtype.is_floating_point]
    return result
