"""A linear layer whose frozen weight may be freed between the two passes. Put in place by `zero3`.

PyTorch keeps a view of the weight for the backward pass, and with it all that was gathered. DeepSpeed's own replacement
keeps the layer's input as well, which only a trained weight needs, and takes the place of adapters' layers, too: a step
of a model of 1.1 B parameters on a GPU took 1.2 times as long by it, and 1.5 times the memory. With a frozen weight
nothing of the forward pass is needed.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch.nn import functional

_NATIVE: Final[Callable[..., torch.Tensor]] = functional.linear


class _FrozenLinear(torch.autograd.Function):
    """x W^T + b, where W is ZeRO's and what is to be trained is behind x."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: Any, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute as PyTorch does, autocast included."""
        ctx.weight = weight  # the parameter, not what it holds now: saved tensors would keep that alive
        return _NATIVE(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Any, None, Any]:
        """Return the gradients of the input and of a trained bias."""
        (gradient,) = outputs
        weight = ctx.weight
        was_absent = weight.ds_status == ZeroParamStatus.NOT_AVAILABLE
        if was_absent:  # of a module whose hooks do not tell that its backward pass begins; on all ranks alike
            weight.all_gather()
        try:
            of_input = gradient.matmul(weight.to(gradient.dtype)) if ctx.needs_input_grad[0] else None
        finally:
            if was_absent:
                weight.partition()
        of_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if ctx.needs_input_grad[2] else None
        return of_input, None, of_bias


def linear(inputs: torch.Tensor, weight: Any, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute `torch.nn.functional.linear`; a frozen weight of ZeRO's is not kept for the backward pass."""
    if hasattr(weight, "ds_status") and not weight.requires_grad and torch.is_grad_enabled():
        return _FrozenLinear.apply(inputs, weight, bias)
    return _NATIVE(inputs, weight, bias)


def install() -> None:
    """Let all modules compute by it, for good."""
    functional.linear = linear  # type: ignore[assignment]
