"""The base in partitions of DeepSpeed's ZeRO-3: its layout, its gathers and its hooks; when to gather is ours.

ZeRO's hooks tell when a module is about to compute, forward and backward, and when it is done. Its own coordinator
would answer by a trace of all modules, which it checks among the ranks, and by keeping most of what it gathered.
`Coordinator` takes its place: one gather for a block, which is freed when the block is done. What computes last
in the forward pass computes first in the backward pass: as many of the last modules as there is room for stay.

What is trained is unknown to ZeRO: ordinary parameters, whole on every rank, in whatever group the base lies. (Were
they partitioned over a group that is not the world, replicas of them would diverge without any error.)
"""

from collections.abc import Iterator, Sequence, Set
from typing import Any, NamedTuple

import torch
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.runtime.zero.partitioned_param_coordinator import iter_params
from deepspeed.utils import set_z3_leaf_module, z3_leaf_module
from deepspeed.utils.timer import NoopTimer
from peft.tuners.tuners_utils import BaseTunerLayer

from . import linear


def zero_config(dtype: torch.dtype) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a base of a dtype."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": dtype == torch.bfloat16},
        # Of its linear layer, see `linear`.
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "memory_efficient_linear": False},
    }


def whole_bytes(parameter: torch.nn.Parameter) -> int:
    """Return the bytes of a parameter as a whole, partitioned or not."""
    return int(getattr(parameter, "ds_numel", parameter.numel())) * parameter.element_size()


def blocks(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the repeated blocks of a model: the items of its outermost lists of modules."""
    for child in module.children():
        yield from child.children() if isinstance(child, torch.nn.ModuleList) else blocks(child)


def unit_bytes(model: torch.nn.Module) -> tuple[int, int]:
    """Return the bytes of the base in the largest repeated block, and in the largest module outside of those."""
    repeated = list(blocks(model))
    inside = {id(module) for block in repeated for module in block.modules()}
    others = [m for m in model.modules() if id(m) not in inside and next(m.children(), None) is None]
    block, other = (
        max((sum(whole_bytes(p) for p in m.parameters() if not p.requires_grad) for m in modules), default=0)
        for modules in (repeated, others)
    )
    return block, other


def default_room(model: torch.nn.Module) -> int:
    """Return the bytes of the base that may be gathered at once where memory is short: two blocks or the like.

    That is two of the largest modules, and not more than two blocks and the largest module outside of them.
    """
    block, other = unit_bytes(model)
    return min(2 * max(block, other), 2 * block + other)


class Use(NamedTuple):
    """A module that computes in the forward pass."""

    module: int
    size: int
    """Bytes of the base that it needs."""
    returns: bool
    """Whether it needs them in the backward pass, too."""


def kept(order: Sequence[Use], room: int) -> frozenset[int]:
    """Return which modules stay gathered from their forward to their backward pass: the large first, then the late.

    Args:
        order: As they compute in the forward pass.
        room: Bytes that may be gathered at once.
    """
    chosen: set[int] = set()
    for _, candidate in sorted(enumerate(order), key=lambda item: (item[1].size, item[0]), reverse=True):
        if candidate.returns and peak(order, chosen | {candidate.module}) <= room:
            chosen.add(candidate.module)
    return frozenset(chosen)


def peak(order: Sequence[Use], chosen: Set[int]) -> int:
    """Return the most bytes that are gathered at once in a forward pass after which some modules stay."""
    held = most = 0
    for use in order:
        most = max(most, held + use.size)
        held += use.size if use.module in chosen else 0
    return most


class Coordinator:
    """Gathers modules and frees them, as the hooks of `DeepSpeedZeRoOffload` ask for it, on all ranks alike.

    In a forward pass again within a backward pass, which is what checkpointing does, nothing is freed: the backward
    pass of the same module comes next.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._gathered: dict[torch.nn.Parameter, set[int]] = {}
        """Why each parameter is here: ids of modules that compute with it, or are to."""
        self._order: list[Use] = []
        """Of the forward pass that runs, or ran last, if a backward pass follows."""
        self._known: tuple[list[Use], frozenset[int]] = ([], frozenset())
        """An order, and what is kept in it."""
        self._began = self._trains = False
        self.gathered_bytes = 0
        """So far, as whole parameters."""

    def reset_step(self) -> None:
        """Begin a forward pass of the whole model."""
        self.release_backward_leftovers()
        self._begin()

    def _begin(self) -> None:
        """Begin a forward pass; only one that has a backward pass keeps anything."""
        self._began = True
        if self._order and self._order != self._known[0]:
            self._known = (self._order, kept(self._order, self._room))
        self._order = []
        self._trains = torch.is_grad_enabled()

    @torch.no_grad()
    def fetch_sub_module(self, module: Any, forward: bool) -> None:
        """Gather a module's part of the base."""
        if not forward and not needs_again(module):
            return
        if forward and not self._began and not _in_backward():
            self._begin()  # of a part of the model
        parameters = _parameters(module)
        absent = [p for p in parameters if p.ds_status == ZeroParamStatus.NOT_AVAILABLE]
        if absent:
            absent[0].all_gather_coalesced(absent).wait()
            self.gathered_bytes += sum(whole_bytes(p) for p in absent)
        for parameter in parameters:
            self._gathered.setdefault(parameter, set()).add(module.ds_id)
        if parameters and forward and self._trains and not _in_backward():
            self._order.append(Use(module.ds_id, sum(whole_bytes(p) for p in parameters), needs_again(module)))

    @torch.no_grad()
    def release_sub_module(self, module: Any, forward: bool) -> None:
        """Free a module's part of the base, unless it stays for the backward pass or another module needs it."""
        if forward and (_in_backward() or (self._trains and module.ds_id in self._known[1])):
            return
        for parameter in _parameters(module):
            users = self._gathered.get(parameter, set())
            users.discard(module.ds_id)
            if not users:
                self._free(parameter)

    @torch.no_grad()
    def release_backward_leftovers(self) -> None:
        """Free all that is left: modules whose inputs needed no gradient are not told that they are done."""
        self._began = False
        for parameter in list(self._gathered):
            self._free(parameter)

    def _free(self, parameter: Any) -> None:
        self._gathered.pop(parameter, None)
        if parameter.ds_status == ZeroParamStatus.AVAILABLE:
            parameter.partition()

    def trace_prologue(self, module: Any) -> None:
        """There is no trace."""

    def is_record_trace(self) -> bool:
        """Return whether to record one."""
        return False


class Gathering(DeepSpeedZeRoOffload):
    """ZeRO's hooks on all modules of a model whose base is partitioned."""

    def __init__(self, model: torch.nn.Module, room: int) -> None:
        """Register the hooks.

        Args:
            model: Its frozen parameters are ZeRO's, from `load`.
            room: Bytes that may be gathered at once, if the largest block and the largest other module fit in.
        """
        for block in blocks(model):
            # One gather for all of a block: an eighth of the messages, and the memory of a block instead of a module's.
            set_z3_leaf_module(block, True)
        for module in model.modules():
            # One of peft's reads shape or values of its base layer, which outside of a block is done by then.
            if isinstance(module, BaseTunerLayer):
                set_z3_leaf_module(module, True)
        linear.install()
        super().__init__(model, timers=NoopTimer(), ds_config={}, overlap_comm=False)
        self.param_coordinator = Coordinator(room)

    def _convert_to_zero_parameters(self, *_: Any) -> None:
        """The base is converted, and what is trained is to stay as it is."""

    def mark_persistent_parameters(self, *_: Any) -> list[Any]:
        """None is gathered for good."""
        return []


def _parameters(module: torch.nn.Module) -> list[Any]:
    """Return what a module needs of the base: its own, for a block all in it, and those registered as external."""
    found = {p: None for p in iter_params(module, recurse=z3_leaf_module(module)) if hasattr(p, "ds_tensor")}
    return list(found)


def needs_again(module: torch.nn.Module) -> bool:
    """Tell whether a module needs its frozen parameters for gradients; a table does not: its inputs have none."""
    return not isinstance(module, torch.nn.Embedding)


def _in_backward() -> bool:
    """Tell whether autograd is running a backward pass in this thread."""
    return bool(torch._C._current_graph_task_id() != -1)
