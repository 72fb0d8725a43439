"""One step of the job without data: what its activations take at their peak. Used by `estimate`.

The real model's modules, the real method and the task's own loss run forward and backward under a `Meter`, so that
whatever an architecture keeps for its backward pass, checkpointing throws away, or a loss materialises is counted as
it is, not by a rule for Llamas. Not counted are parameters and their gradients, which `estimate` knows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch.overrides import TorchFunctionMode

from ..data import Example, Sample
from ..sharding.zero3 import Use, blocks, default_room, kept, needs_again
from ..tasks import Task
from ..tasks.cross_entropy import chunks_of
from .meter import GLIBC, Meter, fake_mode

_SHORT, _LONG = 4, 6
"""Blocks that are run in place of many: each further one adds what one more of these does."""
_MANY: Final = 8


@dataclass(frozen=True)
class Peak:
    """Bytes at the fullest moment, parameters aside."""

    whole: int
    """Of a rank that holds the whole base."""
    sharded: int
    """Of one that gathers a block of it at a time."""


@dataclass(frozen=True)
class Batch:
    """What a rank computes at once, at most."""

    example: Sample
    rows: int
    packed: bool = False
    """Whether a row holds several examples: two halves of this one."""


class Computes(Protocol):
    """What runs without data: a task, or what stands for one."""

    def collate(self, samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        """See `Task`."""
        ...

    def loss_sum(self, model: Any, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """See `Task`."""
        ...


class Gathers(Protocol):
    """What is told of gathered units of the base: a `Meter`, or what stands for one."""

    def gather(self, unit: int, sizes: list[int]) -> None:
        """See `Meter`."""
        ...

    def release(self, unit: int) -> None:
        """See `Meter`."""
        ...


def peak_of(model: Any, task: Computes, batch: Batch, *, training: bool, accelerated: bool) -> Peak:
    """Return the peak of a micro step, or of a batch of an evaluation.

    Args:
        model: On the meta device, with the method in it.
        task: Of the job.
        batch: The largest one.
        training: Whether there is a backward pass.
        accelerated: Whether it is for an accelerator, whose attention needs no matrix of it for dropout either.
    """

    def run() -> Peak:
        return _run(model, task, batch, training=training, accelerated=accelerated)

    repeated = _repeated(model)
    if repeated is None or len(getattr(*repeated)) <= _MANY:
        return run()
    count = len(getattr(*repeated))
    short, long = (_with_blocks(*repeated, number, run) for number in (_SHORT, _LONG))
    more = (count - _LONG) / (_LONG - _SHORT)
    return Peak(
        round(long.whole + more * (long.whole - short.whole)),
        round(long.sharded + more * (long.sharded - short.sharded)),
    )


def _run(model: Any, task: Computes, batch: Batch, *, training: bool, accelerated: bool) -> Peak:
    tensors = _tensors(task, batch)
    meter = Meter() if accelerated else Meter(**GLIBC)
    model.train(training)
    with ExitStack() as stack:
        if accelerated:
            stack.enter_context(_FusedDropout())
        for tensor in stack.enter_context(fakes(model)):
            meter.ignore(tensor)
        stack.enter_context(torch.set_grad_enabled(training))
        stack.enter_context(gathers(model, meter))
        stack.enter_context(chunks_of("cuda" if accelerated else "cpu"))
        stack.enter_context(meter)
        # Numbers such as those of images are of a size that counts.
        tensors = {name: t.clone() if t.is_floating_point() else t for name, t in tensors.items()}
        dtype = next(p.dtype for p in model.parameters() if not p.requires_grad)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss, predicted = task.loss_sum(model, tensors)
        if training:
            loss.backward()
        del loss, predicted
    return Peak(meter.whole.peak, meter.sharded.peak)


def _tensors(task: Computes, batch: Batch) -> dict[str, torch.Tensor]:
    """Return what a rank computes at once; packed rows have masks that rows of one example need not."""
    if not batch.packed:
        return task.collate([batch.example] * batch.rows)
    assert isinstance(batch.example, Example)
    assert isinstance(task, Task)
    ids, labels = batch.example.input_ids, batch.example.labels
    assert isinstance(labels, tuple)
    half = len(ids) // 2
    row = [Example(ids[:half], labels[:half]), Example(ids[half:], labels[half:])]
    return task.collate_packed([row] * batch.rows)


@contextmanager
def fakes(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Let a model run without data; yield what stands for its parameters."""
    with fake_mode(), _fake_parameters(model) as kept:
        yield kept


@contextmanager
def _fake_parameters(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Give the model fake parameters with gradients, and buffers, on the CPU; yield them; take them away again."""
    made: dict[int, torch.Tensor] = {}
    kept: list[torch.Tensor] = []
    before: list[tuple[Any, str, Any]] = []
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is None:
                    continue
                before.append((table, key, tensor))
                if id(tensor) not in made:
                    made[id(tensor)] = _fake(tensor)
                    kept.append(made[id(tensor)])
                    if tensor.requires_grad:  # it is there from the second micro step on
                        made[id(tensor)].grad = torch.empty(tensor.shape, dtype=tensor.dtype)
                        kept.append(made[id(tensor)].grad)  # type: ignore[arg-type]
    try:
        for table, key, tensor in before:
            table[key] = made[id(tensor)]
        yield kept
    finally:
        for table, key, tensor in before:
            table[key] = tensor


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty


@contextmanager
def gathers(model: Any, meter: Gathers) -> Iterator[None]:
    """Tell the meter what is gathered, and when: a block, or a module outside of blocks, while it computes.

    What has room to stay for the backward pass stays; modules are taken to compute in the order that lists them.
    """
    repeated = set(blocks(model))
    inside = {id(module) for block in repeated for module in block.modules()} - {id(block) for block in repeated}
    sizes: dict[torch.nn.Module, list[int]] = {}
    for module in model.modules():
        if module in repeated or (id(module) not in inside and next(module.children(), None) is None):
            frozen = [p.numel() * p.element_size() for p in module.parameters() if not p.requires_grad]
            sizes |= {module: frozen} if frozen else {}
    order = [Use(id(module), sum(each), needs_again(module)) for module, each in sizes.items()]
    staying = kept(order, default_room(model)) if torch.is_grad_enabled() else frozenset()
    hooks = [hook for m, each in sizes.items() for hook in _watch(m, meter, each, stays=id(m) in staying)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _watch(unit: torch.nn.Module, meter: Gathers, sizes: list[int], *, stays: bool) -> list[Any]:
    def take(*_: Any) -> None:
        meter.gather(id(unit), sizes)

    def free(*_: Any) -> None:
        meter.release(id(unit))

    def on_gradient(tensors: Any, hook: Callable[..., None]) -> None:
        for tensor in tensors if isinstance(tensors, tuple | list) else (tensors,):
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad and torch.is_grad_enabled():
                tensor.register_hook(hook)

    def before(_: Any, inputs: Any, named: Any) -> None:
        take()
        on_gradient((*inputs, *named.values()), free)

    def after(_: Any, inputs: Any, output: Any) -> None:
        if not stays:
            free()
        on_gradient(output, take)

    return [unit.register_forward_pre_hook(before, with_kwargs=True), unit.register_forward_hook(after)]


def _repeated(model: torch.nn.Module) -> tuple[Any, str] | None:
    """Return where the model's only list of blocks is, as its holder and name, if these are all alike."""
    found = list(_lists(model))
    if len(found) != 1:
        return None
    holder, name = found[0]
    kinds = {tuple((n, p.shape, p.dtype) for n, p in block.named_parameters()) for block in getattr(holder, name)}
    return (holder, name) if len(kinds) == 1 else None


def _lists(module: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str]]:
    for name, child in module.named_children():
        if isinstance(child, torch.nn.ModuleList):
            yield module, name
        else:
            yield from _lists(child)


def _with_blocks(holder: Any, name: str, count: int, run: Callable[[], Peak]) -> Peak:
    """Run with only the first blocks of a list."""
    all_of_them = getattr(holder, name)
    setattr(holder, name, torch.nn.ModuleList(list(all_of_them)[:count]))
    try:
        return run()
    finally:
        setattr(holder, name, all_of_them)


class _FusedDropout(TorchFunctionMode):
    """Attention without dropout, which takes the fused kernel on the CPU as well."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)
