"""The linear layer of a partitioned base, beside PyTorch's own."""

from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from peftjob_trainer.sharding.linear import linear
from torch.nn import functional


class Gathered:
    """A frozen weight of ZeRO's that is freed after the forward pass, and gathered by whoever needs it again."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self.parameter: Any = torch.nn.Parameter(values.clone(), requires_grad=False)
        self.parameter.ds_status = ZeroParamStatus.AVAILABLE
        self.parameter.all_gather, self.parameter.partition = self.gather, self.free
        self.gathers = 0

    def gather(self) -> None:
        self.gathers += 1
        self.parameter.data = self.values.clone()
        self.parameter.ds_status = ZeroParamStatus.AVAILABLE

    def free(self) -> None:
        self.parameter.data = torch.empty(0)
        self.parameter.ds_status = ZeroParamStatus.NOT_AVAILABLE


@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "a trained bias"])
@pytest.mark.parametrize("shape", [(5, 4), (2, 5, 4), (4,)], ids=str)
def test_gradients_are_those_of_pytorch_though_the_weight_was_freed(shape: tuple[int, ...], has_bias: bool) -> None:
    torch.manual_seed(1)
    weight = Gathered(torch.randn(3, 4))
    own = torch.randn(shape, requires_grad=True)
    bias = torch.randn(3, requires_grad=True) if has_bias else None
    inputs = [t for t in (own, bias) if t is not None]
    want = functional.linear(own, weight.values, bias)
    want_gradients = torch.autograd.grad(want.square().sum(), inputs)
    found = linear(own, weight.parameter, bias)
    loss = found.square().sum()
    weight.free()
    found_gradients = torch.autograd.grad(loss, inputs)
    assert torch.equal(found, want)
    assert all(torch.allclose(a, b) for a, b in zip(found_gradients, want_gradients, strict=True))
    assert (weight.gathers, weight.parameter.numel()) == (1, 0)


def test_autocast_computes_in_its_dtype_and_the_gradient_has_the_inputs() -> None:
    weight = Gathered(torch.randn(3, 4).bfloat16())
    own = torch.randn(5, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(own, weight.parameter)
    (gradient,) = torch.autograd.grad(found.float().sum(), own)
    assert (found.dtype, gradient.dtype) == (torch.bfloat16, torch.float32)
    assert weight.gathers == 0


def test_what_goes_in_is_not_kept() -> None:
    weight = Gathered(torch.randn(3, 4))
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        linear(torch.randn(5, 4, requires_grad=True), weight.parameter)
    assert kept == []


def test_a_trained_weight_is_pytorchs_own_affair() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    found = linear(torch.randn(5, 4), weight)
    assert "FrozenLinear" not in type(found.grad_fn).__name__
    found.sum().backward()
    assert weight.grad is not None
