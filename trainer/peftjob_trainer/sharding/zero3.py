"""Shard group `Full`: DeepSpeed's ZeRO-3 partitions the frozen base over all ranks; what is trained is whole on each.

ZeRO's own hooks gather a module's parameters before its forward and backward, and free them after. The trained
parameters must be known to those hooks, so each has a partition group of one rank and is marked as persistent and
external: nothing of it is ever sent or freed. Its gradient is an ordinary `.grad`, its optimiser an ordinary AdamW,
and the world is summed by one all-reduce. DeepSpeed's engine class is not used: it wants one dtype for all parameters,
and an optimiser of its own; `DeepSpeedZeRoOffload` is the part of it that shards.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
from deepspeed.utils import set_z3_leaf_module
from deepspeed.utils.timer import NoopTimer
from peftjob_api import PlanInfo
from peftjob_api.spec import TrainingSpec

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


def zero_config(dtype: torch.dtype) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a base of a dtype."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }


def whole_bytes(parameter: torch.nn.Parameter) -> int:
    """Return the bytes of a partitioned parameter as a whole."""
    return int(parameter.ds_numel) * parameter.element_size()  # type: ignore[attr-defined]


def blocks(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the repeated blocks of a model: the items of its outermost lists of modules."""
    for child in module.children():
        yield from child.children() if isinstance(child, torch.nn.ModuleList) else blocks(child)


class Sharded:
    """A model whose base is partitioned, with the trained parameters, their gradients and their optimiser."""

    def __init__(self, model: Any, trained: dict[str, torch.nn.Parameter], training: TrainingSpec) -> None:
        self.model = model
        self.trained = trained
        self.base = [p for p in model.parameters() if not p.requires_grad]
        alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
        for parameter in trained.values():
            parameter.ds_zero_partition_process_group = alone  # type: ignore[attr-defined]
        for block in blocks(model):
            # One gather for all of a block: an eighth of the messages, and the memory of a block instead of a module's.
            set_z3_leaf_module(block, True)
        # Limits of 1 and 0: gather a module when it runs and free it at once. The defaults keep the whole base.
        self._zero = DeepSpeedZeRoOffload(
            model,
            timers=NoopTimer(),
            ds_config=zero_config(self.base[0].dtype),
            overlap_comm=False,
            prefetch_bucket_size=0,
            max_reuse_distance=0,
            max_live_parameters=1,
            param_persistence_threshold=0,
        )
        for parameter in trained.values():
            parameter.all_gather()  # type: ignore[attr-defined]
            parameter.ds_persist = True  # type: ignore[attr-defined]
            # Persistent ones are released all the same while ZeRO records the order of modules, and would come back
            # with the values of their first partition; external ones never are.
            parameter.is_external_param = True  # type: ignore[attr-defined]
        self.optimizer = torch.optim.AdamW(
            list(trained.values()), lr=0.0, betas=_BETAS, eps=_EPSILON, weight_decay=training.weight_decay
        )

    def autocast(self) -> torch.autocast:
        """Return the context of every computation: fp32 adapters in a bf16 model compute in bf16."""
        parameter = self.base[0]
        return torch.autocast(parameter.device.type, torch.bfloat16, enabled=parameter.dtype == torch.bfloat16)

    def backward(self, loss: torch.Tensor) -> None:
        """Add to the gradients, and free what ZeRO gathered for modules whose inputs need no gradient."""
        loss.backward()
        self._zero.release_backward_leftovers()

    def reduce(self, *extra: float) -> list[float]:
        """Sum the gradients over all ranks by one all-reduce, and return the sums of some numbers sent along."""
        assert all(p.numel() for p in self.trained.values()), "ZeRO took a trained parameter away"
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained.values()]
        flat = torch.cat([*(g.flatten() for g in grads), torch.tensor(extra, device=grads[0].device)])
        dist.all_reduce(flat)
        offset = 0
        for parameter in self.trained.values():
            parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()
        return [float(value) for value in flat[offset:].tolist()]

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down to a norm (unless it is 0), and return their norm before."""
        return float(torch.nn.utils.clip_grad_norm_(list(self.trained.values()), max_norm or float("inf")))

    def step(self, learning_rate: float) -> None:
        """Update what is trained, and forget the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Return a copy of what is trained, on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, torch.Tensor]) -> None:
        """Put a snapshot back."""
        for name, parameter in self.trained.items():
            parameter.copy_(snapshot[name])

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients by name, fp32; of the world after `reduce`."""
        return {name: p.grad for name, p in self.trained.items() if p.grad is not None}

    def resident_bytes(self) -> int:
        """Return the bytes of the base that this rank holds now: its partitions and all that is gathered."""
        storages = {}
        for parameter in self.base:
            for tensor in (parameter.data, parameter.ds_tensor.data):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return sum(storages.values())

    def whole_bytes(self) -> int:
        """Return the bytes of the base as a whole."""
        return sum(whole_bytes(parameter) for parameter in self.base)

    def plan(self) -> PlanInfo:
        """Return how the base lies; `base_bytes_per_rank` is measured."""
        return PlanInfo(
            shard_group="Full",
            ranks=dist.get_world_size(),
            base_parameters=sum(p.ds_numel for p in self.base),
            base_bytes_per_rank=self.resident_bytes(),
            trainable_parameters=sum(p.numel() for p in self.trained.values()),
        )
