"""The bytes of a merged model's tensors, a window at a time. Used by `write`.

A merged tensor is that of the file, cast to fp32, merged with the fp32 adapter by peft's own layer, and rounded once to
the dtype of the file. (peft on a bf16 model rounds twice: the update, and the sum.) Of the layers in `_BY_ROWS` every
row of the result depends on that row alone, so they are computed some rows at a time, and no whole tensor is held.
"""

import copy
import itertools
from collections.abc import Iterator
from typing import Any, Final

import torch
from peft.tuners.adalora import SVDLinear
from peft.tuners.loha.layer import Linear as LoHaLinear
from peft.tuners.lora.layer import Linear as LoRALinear
from peft.tuners.lora.variants import DoraLinearVariant

from ..sharding.segments import DTYPES
from ..sharding.sources import Read, Source
from ..sharding.values import Values
from .content import Tensor, Unit

WINDOW_BYTES: Final = 16 * 2**20
"""Of a tensor, at a time; in fp32 for what is computed."""
_ROW_BLOCK: Final = 64
"""Rows are computed in multiples of this, so that each is computed by the same kernel as in one product of all."""
_BY_ROWS: Final[dict[type, tuple[str, ...]]] = {
    LoRALinear: ("lora_B", "lora_magnitude_vector"),
    SVDLinear: ("lora_B",),
    LoHaLinear: ("hada_w1_a", "hada_w2_a"),
}
"""Layer -> what has a row for each row of the weight."""


def windows(unit: Unit, values: Values, source: Source) -> Iterator[bytes]:
    """Yield the bytes of a unit's tensors, one tensor after the other, each in the row-major order of its elements."""
    if unit.layer is None:
        (tensor,) = unit.tensors
        if unit.trained is None:
            yield from _copied(tensor, source)
        else:
            yield from cast(getattr(*unit.trained), tensor)
        return
    by_rows = _by_rows(unit.layer)
    if by_rows is None:
        merged = dict(_merged(unit.layer, _whole(unit, values)).named_parameters())
        for tensor in unit.tensors:
            yield from cast(merged[_last(tensor)], tensor)
        return
    for tensor in unit.tensors:
        if _last(tensor) == "weight":
            yield from _merged_rows(unit.layer, tensor, values, by_rows)
        else:  # a bias, which such a layer leaves alone, unless it is trained itself
            yield from cast(_present(unit.layer, tensor, values), tensor)


def cast(value: torch.Tensor, tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of a value in the dtype that the file shall have."""
    flat, dtype = value.detach().flatten(), DTYPES[tensor.dtype]
    step = WINDOW_BYTES // dtype.itemsize
    for at in range(0, flat.numel(), step):
        yield _bytes(flat[at : at + step].to(dtype=dtype, device="cpu"))


def _bytes(value: torch.Tensor) -> bytes:
    return value.contiguous().view(torch.uint8).numpy().tobytes()


def _copied(tensor: Tensor, source: Source) -> Iterator[bytes]:
    """Yield the bytes that the file has."""
    for at in range(0, tensor.nbytes, WINDOW_BYTES):
        window = torch.empty(min(WINDOW_BYTES, tensor.nbytes - at), dtype=torch.uint8)
        source.read([Read(tensor.file, tensor.offset + at, memoryview(window.numpy()), tensor.key, is_new=True)])  # type: ignore[arg-type]
        yield window.numpy().tobytes()


def _by_rows(layer: Any) -> tuple[str, ...] | None:
    """Return what of a layer has a row for each row of the weight, if it can be computed some rows at a time."""
    names = _BY_ROWS.get(type(layer))
    plain = type(layer.get_base_layer()) is torch.nn.Linear and not getattr(layer, "fan_in_fan_out", False)
    variants = getattr(layer, "lora_variant", {}).values()
    if not plain or any(not isinstance(variant, DoraLinearVariant) for variant in variants):
        return None
    return None if any(getattr(layer, "lora_bias", {}).values()) else names


def _merged_rows(layer: Any, tensor: Tensor, values: Values, names: tuple[str, ...]) -> Iterator[bytes]:
    rows, width = tensor.shape
    step = max(_ROW_BLOCK, WINDOW_BYTES // (4 * width) // _ROW_BLOCK * _ROW_BLOCK)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        weight = values.span(tensor.name, start * width, stop * width, torch.float32).view(-1, width)
        parts = {name: _rows_of(getattr(layer, name), start, stop) for name in names if hasattr(layer, name)}
        yield from cast(_merged(layer, {"weight": weight}, parts).weight, tensor)


def _rows_of(holder: Any, start: int, stop: int) -> Any:
    """Return the holder of some adapters' parameters (a ParameterDict, or a ModuleDict) with some rows of each."""
    if isinstance(holder, torch.nn.ParameterDict):
        return torch.nn.ParameterDict({name: torch.nn.Parameter(p[start:stop], False) for name, p in holder.items()})
    cut = {}
    for name, module in holder.items():
        assert set(module._parameters) <= {"weight", "bias"}, module
        cut[name] = _with(module, {"weight": module.weight[start:stop]})
    return torch.nn.ModuleDict(cut)


def _whole(unit: Unit, values: Values) -> dict[str, torch.Tensor]:
    return {_last(tensor): _present(unit.layer, tensor, values) for tensor in unit.tensors}


def _present(layer: Any, tensor: Tensor, values: Values) -> torch.Tensor:
    """Return a parameter of the layer that the method wraps: as it was trained, or from the file; fp32."""
    own = layer.get_base_layer()._parameters[_last(tensor)]
    return own.detach().float() if own.requires_grad else values.tensor(tensor.name, torch.float32)


def _merged(layer: Any, values: dict[str, torch.Tensor], parts: dict[str, Any] | None = None) -> Any:
    """Return the module that peft makes of a layer: one with other values than it has, and other parts."""
    device = next((p.device for p in _adapter_parameters(layer)), torch.device("cpu"))
    twin = copy.copy(layer)
    twin._modules = dict(layer._modules) | (parts or {})
    twin._modules["base_layer"] = _with(layer.get_base_layer(), {k: v.to(device) for k, v in values.items()})
    twin.merged_adapters = []
    if hasattr(layer, "_caches"):
        twin._caches = {}
    with torch.no_grad():
        twin.merge()
    return twin.get_base_layer()


def _adapter_parameters(layer: Any) -> Iterator[torch.nn.Parameter]:
    """Yield what a method has put into a layer."""
    others = (module.parameters() for name, module in layer.named_children() if name != "base_layer")
    return itertools.chain(layer._parameters.values(), *others)


def _with(module: Any, values: dict[str, torch.Tensor]) -> Any:
    """Return a module that differs from another in its parameters; the other stays as it is."""
    twin = copy.copy(module)
    own = {name: torch.nn.Parameter(value, requires_grad=False) for name, value in values.items()}
    twin._parameters = dict.fromkeys(module._parameters) | own
    return twin


def _last(tensor: Tensor) -> str:
    return tensor.name.rpartition(".")[2]
