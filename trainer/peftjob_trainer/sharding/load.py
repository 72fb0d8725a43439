"""Brings the base to where it belongs: each rank reads its own range of every parameter, and nothing else.

ZeRO-3 flattens a parameter and gives rank r of w the elements `[r * ps, (r + 1) * ps)`, `ps = ceil(numel / w)`
(`deepspeed/runtime/zero/partition_parameters.py`), and safetensors stores tensors row by row: so a rank's share of a
tensor is a range of bytes of a file, or a few for one that is made of several tensors. Where each rank holds a copy,
a parameter is an ordinary one, and its share all of it.

`session` goes through this in order: `skeleton` (the model without data), `prepare` (everything that is not the
base's own: new heads, buffers, and what is tied), then the method is injected, which may ask `values` for what its own
parameters begin with, then `fill` (the bytes). No weight of the base crosses between nodes; within one, only those that
all its ranks hold whole and none has in its page cache.
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.zero.partition_parameters import Init, PartitionedParamStatus, ZeroParamStatus
from peftjob_api import Reason
from peftjob_api.spec import StorageSpec
from transformers import GenerationConfig
from transformers.integrations import is_deepspeed_zero3_enabled

from ..exits import TrainerError
from ..storage.weights import corrupt
from .groups import ShardGroup, Topology, shard_group
from .process_groups import Groups, open_groups
from .segments import Conversion, Segments, find_segments
from .share import exchange, own_parts
from .skeleton import make_skeleton, matches
from .sources import open_source
from .stage import Stage, Target
from .values import Values
from .zero3 import zero_config

log = logging.getLogger(__name__)

_NAME = "peftjob_name"
"""Attribute of a parameter without data: its name in the base, whatever a method calls it later."""


class Hollow(torch.nn.Parameter):
    """A parameter of the base without data. Its copies, such as a method makes to train them, are filled like it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hollow":
        """Return another one of the same name."""
        if id(self) not in memo:
            memo[id(self)] = copy = Hollow(self.data, self.requires_grad)
            setattr(copy, _NAME, base_name(self))
        found: Hollow = memo[id(self)]
        return found


_MAX_SHOWN = 5


@dataclass(frozen=True)
class Loaded:
    """What loading took, on each rank."""

    bytes_read: list[int]
    """From storage, headers aside."""
    seconds: list[float]

    def __str__(self) -> str:
        """Return a line for the log."""
        each = ", ".join(f"{number / 1e6:,.1f}" for number in self.bytes_read)
        return f"base: read {each} MB on ranks 0 to {len(self.bytes_read) - 1} in {max(self.seconds):.1f} s"


class Base:
    """A base model on its way from storage into the memory of the ranks."""

    def __init__(
        self, folder: Path, uri: str, storage: StorageSpec, dtype: torch.dtype, device: torch.device, seed: int
    ) -> None:
        """Open the weights; see `open_source` for arguments and errors.

        Args:
            folder: With the config, and the weights or a record of where they are.
            uri: `spec.baseModel.uri`, for messages.
            storage: `spec.storage`.
            dtype: Of the base in memory, unless the model itself keeps a parameter in another.
            device: Of this rank.
            seed: Of what is new.
        """
        self.folder = folder
        self.dtype = dtype
        self.device = device
        self.source = open_source(folder, uri, storage)
        self.keep_open = False
        """Whether `values` are asked for after `fill`; `close` ends it."""
        self._uri = uri
        self._seed = seed
        self._segments = Segments()
        self._tied_twice: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []

    def skeleton(self, auto_class: Any, **settings: Any) -> Any:
        """Return the model on the meta device, as `from_pretrained` makes it before it reads weights.

        Args:
            auto_class: Such as `AutoModelForCausalLM`.
            settings: Changes to the config.

        Raises:
            TrainerError: `INVALID_CONFIG`: transformers does not know the model, or not for this task, or it is
                quantised.
        """
        assert not is_deepspeed_zero3_enabled(), "an HfDeepSpeedConfig is alive: transformers would partition this"
        model = make_skeleton(self.folder, self._uri, self.dtype, auto_class, **settings)
        if model.can_generate() and (self.folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(self.folder)
        return model.eval()

    def prepare(self, model: Any, new: Sequence[str] = ()) -> None:
        """Give data to everything but the parameters of the base, which become placeholders on the device.

        Afterwards the model can be deep-copied and moved; `fill` finds the placeholders by an attribute, those in
        copies that a method makes of modules too. They take no memory, and hold NaN, so that what a method computes
        from one cannot go unnoticed.

        Args:
            model: From `skeleton`.
            new: Names of modules that are trained whole: fp32, from the files if they are there in the right shape,
                else initialised from the seed as the model itself does it, the same on all ranks.

        Raises:
            TrainerError: `BASE_MODEL_CORRUPT`: a tensor is missing, or has another shape or kind of number.
        """
        self._segments = segments = find_segments(model, self.source.weights.files)
        self.values = Values(self.source, segments, model, self.device)
        self._check_readable()
        both = [(a, b) for a, b in model.all_tied_weights_keys.items() if not {a, b} & segments.missing]
        unfilled = set(segments.missing)
        model.tie_weights(missing_keys=unfilled, recompute_mapping=False)
        self._tied_twice = [(model.get_parameter(a), model.get_parameter(b)) for a, b in both]
        fresh = self._check_complete(model, unfilled, new)
        self._materialise(model, fresh, new)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            model.initialize_weights()
        for conversion in segments.conversions:
            log.warning("base: %s is read as a whole on each rank: %s", conversion.name, conversion.reason)
        plan = model._get_dtype_plan(self.dtype)
        stored: dict[int, str] = {}  # the files may hold a tied parameter under any of its names
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name not in segments.missing:
                stored.setdefault(id(parameter), name)
        for name, (places, parameter) in unique(model).items():
            if not parameter.is_meta:
                parameter.data = parameter.data.to(self.device)  # initialised on the CPU, for the same numbers anywhere
            else:
                dtype = next((d for pattern, d in plan.items() if matches(pattern, name)), parameter.dtype)
                hollow = torch.full((1,), float("nan"), device=self.device).to(dtype).expand(parameter.shape)
                replacement = Hollow(hollow, requires_grad=parameter.requires_grad)
                setattr(replacement, _NAME, stored[id(parameter)])
                self._replace(places, parameter, replacement)

    def fill(self, model: Any, groups: Groups | None = None) -> Loaded:
        """Read this rank's share of the base into ZeRO's partitions, and all of what a method trains of it.

        What several ranks of a node hold whole is read once for the node from a remote source. Of local files each
        rank reads all: the first one's reads bring them into the node's page cache, which serves the others.

        Args:
            model: Prepared, with the method in it.
            groups: Among which ranks each parameter is partitioned; None: all.

        Raises:
            TrainerError: `BASE_MODEL_CORRUPT`, naming file and tensor, or what the storage service says.
        """
        started = time.monotonic()
        self._agree_on_version()
        groups = groups or open_groups(*_everybody())
        own: list[Target] = []
        alike: list[Target] = []
        zero = None
        if groups.base is not None:
            zero = Init(module=torch.nn.Module(), config_dict_or_path=zero_config(self.dtype), dtype=self.dtype)
        for places, parameter in unique(model).values():
            name: str | None = getattr(parameter, _NAME, None)
            if parameter.requires_grad or zero is None:
                if name is not None:
                    dtype = torch.float32 if parameter.requires_grad else parameter.dtype
                    value = torch.empty(parameter.shape, dtype=dtype, device=self.device)
                    whole = torch.nn.Parameter(value, requires_grad=parameter.requires_grad)
                    self._replace(places, parameter, whole)
                    alike.append(Target(name, value.flatten(), 0, value.numel()))
                continue
            parameter.ds_zero_partition_process_group = groups.base  # type: ignore[attr-defined]
            zero._convert_to_deepspeed_param(parameter)
            if name is None:
                parameter.partition()  # type: ignore[attr-defined]
            else:
                own.append(self._partition(parameter, name))
        self._read(own, alike, groups)
        self.source.verify()
        if not self.keep_open:
            self.close()
        self._tie(model)
        return self._report(time.monotonic() - started)

    @property
    def segments(self) -> Segments:
        """Where the files hold each parameter; known once it is prepared."""
        return self._segments

    def close(self) -> None:
        """Let go of the weights' files."""
        self.source.close()

    def _partition(self, parameter: Any, name: str) -> Target:
        """Give a parameter of ZeRO, a placeholder still, an empty partition; return what to read into that."""
        world, rank = parameter.ds_zero_partition_world_size, parameter.ds_zero_partition_rank
        size = -(-parameter.ds_numel // world)
        start = min(rank * size, parameter.ds_numel)
        stop = min(start + size, parameter.ds_numel)
        share = torch.empty(size, dtype=parameter.dtype, device=self.device)
        share[stop - start :].zero_()
        parameter.ds_tensor = share
        share.ds_numel = size  # type: ignore[attr-defined]
        share.status = PartitionedParamStatus.AVAILABLE  # type: ignore[attr-defined]
        share.final_location = None  # type: ignore[attr-defined]
        parameter.ds_numel_aligned = size * world
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=self.device)
        parameter.ds_status = ZeroParamStatus.NOT_AVAILABLE
        return Target(name, share[: stop - start], start, stop)

    def _read(self, own: list[Target], alike: list[Target], groups: Groups) -> None:
        """Read all targets: what lies in the files as it is, and what has to be computed from whole tensors.

        Args:
            own: Shares that no other rank of this node has.
            alike: The same on all ranks of this node.
            groups: Of this rank.
        """
        layouts = self._segments.layouts
        shared = [] if self.source.cached or groups.node is None else [t for t in alike if t.name in layouts]
        each = own if shared else [*own, *alike]
        direct = [*(t for t in each if t.name in layouts), *own_parts(shared, groups)]
        Stage(self.source, self.device).read(direct, layouts)
        exchange(shared, groups)
        others = {target.name: target for target in [*own, *alike] if target.name not in layouts}
        for conversion in self._segments.conversions:
            self._read_converted(conversion, others)
        assert not others, f"nothing fills {sorted(others)}"

    def _read_converted(self, conversion: Conversion, others: dict[str, Target]) -> None:
        """Compute what the library would, from whole tensors, and keep this rank's share."""
        dtype = others[conversion.name].into.dtype if conversion.name in others else self.dtype
        for name, value in self.values.converted(conversion, dtype).items():
            if name in others:
                target = others.pop(name)
                target.into.copy_(value.flatten()[target.start : target.stop])

    def _check_readable(self) -> None:
        for tensor in self._segments.unreadable:
            raise corrupt(
                self._uri,
                tensor.file,
                f"tensor {tensor.name!r} holds numbers of a kind that this model does not compute with",
            )

    def _check_complete(self, model: Any, unfilled: set[str], new: Sequence[str]) -> set[str]:
        """Return what is initialised instead of read; raise when something of the base would be.

        Raises:
            TrainerError: `BASE_MODEL_CORRUPT`.
        """
        fresh = {name for name in {*unfilled, *self._segments.mismatched} if name.split(".")[0] in new}
        optional = model._keys_to_ignore_on_load_missing or ()
        fresh |= {name for name in unfilled if any(re.search(pattern, name) for pattern in optional)}
        lost = sorted({*unfilled, *self._segments.mismatched} - fresh)
        if lost:
            shown = [self._describe(name) for name in lost[:_MAX_SHOWN]]
            raise TrainerError(
                Reason.BASE_MODEL_CORRUPT,
                f"{self._uri}: the weights lack {', '.join(shown)}{' ...' if len(lost) > _MAX_SHOWN else ''}, which "
                f"would stay random: use a base model whose files are complete for this task",
            )
        return fresh

    def _describe(self, name: str) -> str:
        if name not in self._segments.mismatched:
            return name
        found, wanted = self._segments.mismatched[name]
        layout = self._segments.layouts.get(name)
        where = f" of {layout.runs[0].tensor.file}" if layout and layout.runs else ""
        return f"{name} (shape {list(found)}{where} where the model's config asks for {list(wanted)})"

    def _materialise(self, model: Any, fresh: set[str], new: Sequence[str]) -> None:
        """Give memory to heads and buffers, and values to those that the files hold; flag what has its values."""
        for name, (places, parameter) in unique(model).items():
            is_head = name.split(".")[0] in new
            if name in fresh or is_head:
                dtype = torch.float32 if is_head else parameter.dtype
                value = torch.empty(parameter.shape, dtype=dtype) if name in fresh else self.values.tensor(name, dtype)
                own = torch.nn.Parameter(value, requires_grad=parameter.requires_grad)
                self._replace(places, parameter, own)
                parameter = own
            parameter._is_hf_initialized = name not in fresh  # type: ignore[attr-defined]
        for module in model.modules():
            for key, buffer in list(module.named_buffers(recurse=False)):
                module._buffers[key] = torch.empty_like(buffer, device="cpu") if buffer.is_meta else buffer
        for name, buffer in model.named_buffers():
            if name in self._segments.layouts and name not in self._segments.mismatched:
                buffer.copy_(self.values.tensor(name, buffer.dtype))
                buffer._is_hf_initialized = True

    def _replace(self, places: "Places", old: torch.nn.Parameter, new: torch.nn.Parameter) -> None:
        for module, key in places:
            module._parameters[key] = new
        self._tied_twice = [tuple(new if p is old else p for p in pair) for pair in self._tied_twice]  # type: ignore[misc]

    def _agree_on_version(self) -> None:
        """Make sure that all ranks see the same files, and have opened them, before any reads.

        Raises:
            TrainerError: `BASE_MODEL_CORRUPT`.
        """
        own = self.source.fingerprint()
        extremes = torch.tensor([own, -own], device=self.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MIN)
        if extremes.tolist() != [own, -own]:
            raise TrainerError(
                Reason.BASE_MODEL_CORRUPT,
                f"{self._uri}: the weights are not the same for all ranks: they were replaced while the job started, "
                f"or nodes hold different copies (spec.baseModel.uri)",
            )

    def _tie(self, model: Any) -> None:
        """Tie parameters that the config ties and the files hold twice, if they are equal; else they stay apart."""
        for first, second in self._tied_twice:
            if first is second or first.requires_grad or second.requires_grad:
                continue
            same = torch.equal(getattr(first, "ds_tensor", first.data), getattr(second, "ds_tensor", second.data))
            differ = torch.tensor([int(not same)], device=self.device)
            dist.all_reduce(differ)
            if differ.item():
                log.warning("base: the config ties weights that differ in the files: they stay apart")
                continue
            for places, parameter in unique(model).values():
                if parameter is first:
                    self._replace(places, first, second)

    def _report(self, seconds: float) -> Loaded:
        own = torch.tensor([float(self.source.bytes_read), seconds], dtype=torch.float64, device=self.device)
        each = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(each, own)
        return Loaded([int(e[0]) for e in each], [float(e[1]) for e in each])


def base_name(parameter: torch.nn.Parameter) -> str:
    """Return the name in the base of a parameter of it, between `prepare` and `fill`."""
    return str(getattr(parameter, _NAME))


def _everybody() -> tuple[ShardGroup, Topology]:
    """Return a copy of the base over all ranks."""
    topology = Topology(1, dist.get_world_size())
    return shard_group("Full", topology), topology


Places = list[tuple[torch.nn.Module, str]]
"""Modules that hold one parameter, and its key in each."""


def unique(model: torch.nn.Module) -> dict[str, tuple[Places, torch.nn.Parameter]]:
    """Return each parameter once, by its first name, with all the places that hold it."""
    found: dict[int, tuple[str, Places, torch.nn.Parameter]] = {}
    for path, key, module, parameter in _slots(model):
        _, places, _ = found.setdefault(id(parameter), (f"{path}.{key}" if path else key, [], parameter))
        places.append((module, key))
    return {name: (places, parameter) for name, places, parameter in found.values()}


def _slots(model: torch.nn.Module) -> Iterator[tuple[str, str, torch.nn.Module, torch.nn.Parameter]]:
    for path, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                yield path, key, module, parameter
