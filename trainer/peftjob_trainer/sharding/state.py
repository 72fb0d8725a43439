"""One view of what is trained, its gradients and its optimiser, however the base lies. Used by `train` and `session`.

The trained parameters are ordinary ones, whole and fp32 on every rank. So a gradient is an ordinary `.grad`, the
optimiser an ordinary AdamW, the world is summed by one reduction, and a save gathers nothing. DeepSpeed's engine
class is not used: it wants one dtype for all parameters, and an optimiser of its own. Where each rank holds a copy of
the base nothing of DeepSpeed takes part in a step: it is plain data parallelism.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from peftjob_api import PlanInfo
from peftjob_api.training_spec import TrainingSpec

from .process_groups import Groups
from .reduce import Reducer
from .zero3 import Gathering, default_room, whole_bytes

_BETAS, _EPSILON = (0.9, 0.999), 1e-8
_MOMENTS = ("exp_avg", "exp_avg_sq")
"""As AdamW names them."""


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return a copy of tensors, one behind the other, on the CPU."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).cpu()


class Sharded:
    """A model whose base lies in some shard group, with the trained parameters, their gradients and optimiser."""

    def __init__(
        self,
        model: Any,
        trained: dict[str, torch.nn.Parameter],
        training: TrainingSpec,
        groups: Groups,
        spare: int = 0,
        ratios: Mapping[str, float] | None = None,
    ) -> None:
        """Register the hooks that gather, if the base is partitioned, and make the optimiser.

        Args:
            model: Filled by `Base.fill` for the same groups.
            trained: In an order that all ranks share.
            training: `spec.training`.
            groups: Of this rank.
            spare: Bytes of the base that may be gathered at once beyond `default_room`. Where all of it may be,
                nothing is gathered again in the backward pass.
            ratios: Name of a parameter -> what its learning rate is multiplied by, where that is not 1.
        """
        self.model = model
        self.trained = trained
        self.groups = groups
        self.base = [p for p in model.parameters() if not p.requires_grad]
        self._gathering: Gathering | None = None
        if groups.base is not None:
            self._gathering = Gathering(model, default_room(model) + spare)
        self._reducer = Reducer(groups)
        by_ratio: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in trained.items():
            by_ratio.setdefault((ratios or {}).get(name, 1.0), []).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [{"params": each, "ratio": ratio} for ratio, each in by_ratio.items()],
            lr=0.0,
            betas=_BETAS,
            eps=_EPSILON,
            weight_decay=training.weight_decay,
            fused=next(iter(trained.values())).is_cuda,  # one kernel for all parameters, and no copies of them
        )

    def autocast(self) -> torch.autocast:
        """Return the context of every computation: fp32 adapters in a bf16 model compute in bf16."""
        parameter = self.base[0]
        return torch.autocast(parameter.device.type, torch.bfloat16, enabled=parameter.dtype == torch.bfloat16)

    def backward(self, loss: torch.Tensor) -> None:
        """Add to the gradients, and free what was gathered for modules whose inputs need no gradient."""
        loss.backward()
        if self._gathering is not None:
            self._gathering.release_backward_leftovers()

    def reduce(self, *extra: torch.Tensor) -> list[float]:
        """Sum the gradients over all ranks in one go, and return the sums of some scalars sent along.

        An accelerator is waited for at the end only: it has what is to be done here before it is done with the step.
        """
        parameters = list(self.trained.values())
        sizes = [p.numel() for p in parameters]
        used = sum(sizes) + len(extra)
        flat = torch.zeros(self._reducer.padded(used), device=parameters[0].device)
        views = [v.view_as(p) for v, p in zip(flat[: sum(sizes)].split(sizes), parameters, strict=True)]
        there = [(v, p.grad) for v, p in zip(views, parameters, strict=True) if p.grad is not None]
        if there:
            torch._foreach_copy_([view for view, _ in there], [gradient for _, gradient in there])
        for parameter in parameters:
            parameter.grad = None
        del there
        flat[sum(sizes) : used] = torch.stack(extra)
        self._reducer.sum(flat)
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view
        return [float(value) for value in flat[sum(sizes) : used].tolist()]

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down to a norm (unless it is 0), and return their norm before."""
        return float(torch.nn.utils.clip_grad_norm_(list(self.trained.values()), max_norm or float("inf")))

    def step(self, learning_rate: float) -> None:
        """Update what is trained."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["ratio"]
        self.optimizer.step()

    def zero_gradients(self) -> None:
        """Have a step that is not taken tell nothing."""
        torch._foreach_zero_([p.grad for p in self.trained.values() if p.grad is not None])

    def is_finite(self) -> bool:
        """Tell whether all that is trained is finite."""
        return all(bool(p.isfinite().all()) for p in self.trained.values())

    def forget_gradients(self) -> None:
        """Begin the sum of the next step's gradients."""
        self.optimizer.zero_grad()

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Return a copy of what is trained, on the CPU."""
        return {name: p.detach().cpu().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def restore(self, trained: torch.Tensor) -> None:
        """Set what is trained to values, flat and fp32, in the order of `trained`."""
        sizes = [p.numel() for p in self.trained.values()]
        for parameter, values in zip(self.trained.values(), trained.split(sizes), strict=True):
            parameter.copy_(values.view_as(parameter))

    def state(self) -> dict[str, torch.Tensor]:
        """Return copies of what is trained and of the optimiser's moments.

        On the CPU, flat and fp32, in the order of `trained`; `updates` has the number of steps of each parameter
        (int64). The same on all ranks of every shard group.
        """
        none_yet = {"step": torch.zeros(())}
        each = [
            self.optimizer.state.get(p) or {**dict.fromkeys(_MOMENTS, torch.zeros_like(p)), **none_yet}
            for p in self.trained.values()
        ]
        return {
            "trained": flat(self.trained.values()),
            **{moment: flat(state[moment] for state in each) for moment in _MOMENTS},
            "updates": torch.stack([state["step"] for state in each]).long().cpu(),
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Set what `state` returned: the next step is the one that would have followed it."""
        self.restore(state["trained"])
        sizes = [p.numel() for p in self.trained.values()]
        for moment in _MOMENTS:
            for parameter, values in zip(self.trained.values(), state[moment].split(sizes), strict=True):
                own = self.optimizer.state[parameter][moment] = torch.empty_like(parameter)
                own.copy_(values.view_as(parameter))
        for parameter, updates in zip(self.trained.values(), state["updates"].tolist(), strict=True):
            # Where AdamW is fused, it counts on the device.
            device = parameter.device if self.optimizer.defaults["fused"] else None
            self.optimizer.state[parameter]["step"] = torch.tensor(float(updates), device=device)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each trained parameter, in the order of `trained`."""
        return {name: tuple(p.shape) for name, p in self.trained.items()}

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients by name, fp32; of the world after `reduce`."""
        return {name: p.grad for name, p in self.trained.items() if p.grad is not None}

    def resident_bytes(self) -> int:
        """Return the bytes of the base that this rank holds now: its partitions and all that is gathered."""
        storages = {}
        for parameter in self.base:
            for tensor in (parameter.data, getattr(parameter, "ds_tensor", parameter).data):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return sum(storages.values())

    @property
    def is_partitioned(self) -> bool:
        """Whether other ranks hold parts of the base, so that all have to compute in step."""
        return self._gathering is not None

    def gathered_bytes(self) -> int:
        """Return the bytes of the base that were gathered so far, as whole parameters."""
        return self._gathering.param_coordinator.gathered_bytes if self._gathering is not None else 0

    def whole_bytes(self) -> int:
        """Return the bytes of the base as a whole."""
        return sum(whole_bytes(parameter) for parameter in self.base)

    def drop_base(self) -> None:
        """Free what this rank holds of the base: nothing is computed with the model any more."""
        for parameter in self.base:
            parameter.data = parameter.data.new_empty(0)
            if hasattr(parameter, "ds_tensor"):
                parameter.ds_tensor.data = parameter.data

    def plan(self) -> PlanInfo:
        """Return how the base lies; `base_bytes_per_rank` is measured."""
        return PlanInfo(
            shard_group=self.groups.shard.kind,
            shard_ranks=self.groups.shard.ranks,
            ranks=dist.get_world_size(),
            base_parameters=sum(getattr(p, "ds_numel", p.numel()) for p in self.base),
            base_bytes_per_rank=self.resident_bytes(),
            trainable_parameters=sum(p.numel() for p in self.trained.values()),
        )
