"""Layers of every method that changes weights, merged from their values in a file, against peft's own merge."""

from dataclasses import dataclass
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peftjob_trainer.merging import compute
from peftjob_trainer.merging.content import Tensor, Unit

OUT, IN = 200, 24


class Model(torch.nn.Module):
    """One linear layer with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(IN, OUT)


@dataclass
class Values:
    """Stands in for `sharding.Values`, and counts the elements that were asked for at once."""

    tensors: dict[str, torch.Tensor]
    most: int = 0

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        return self._told(self.tensors[name].to(dtype))

    def span(self, name: str, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        return self._told(self.tensors[name].flatten()[start:stop].to(dtype))

    def _told(self, value: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, value.numel() if value.dim() > 1 or value.numel() > OUT else 0)
        return value.clone()


CONFIGS = {
    "LoRA": (peft.LoraConfig(r=8, lora_alpha=5), True),
    "rsLoRA": (peft.LoraConfig(r=8, use_rslora=True), True),
    "DoRA": (peft.LoraConfig(r=8, use_dora=True), True),
    "LoRA with a bias of its own": (peft.LoraConfig(r=8, lora_bias=True), False),
    "LoRA and the bias": (peft.LoraConfig(r=8, bias="lora_only"), True),
    "AdaLoRA": (peft.AdaLoraConfig(init_r=8, total_step=10), True),
    "LoHa": (peft.LoHaConfig(r=8), True),
    "LoKr": (peft.LoKrConfig(r=8), False),
    "VeRA": (peft.VeraConfig(r=8), False),
    "OFT": (peft.OFTConfig(oft_block_size=8), False),
    "IA3": (peft.IA3Config(feedforward_modules=[]), False),
}
"""Config, and whether its layers are computed some rows at a time."""


def adapted(config: Any) -> Any:
    """Return peft's model with random numbers in all that is trained."""
    config.target_modules = {"inner"}
    torch.manual_seed(3)
    model = peft.get_peft_model(Model(), config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.02 if "oft" in name else 0.3)
    return model


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize(("config", "is_by_rows"), CONFIGS.values(), ids=CONFIGS)
def test_a_layer_is_what_peft_merges_rounded_once(
    config: Any, is_by_rows: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "WINDOW_BYTES", 4 * IN * 64)
    model = adapted(config)
    layer = next(module for module in model.modules() if isinstance(module, BaseTunerLayer))
    kind = {"F32": torch.float32, "BF16": torch.bfloat16}[dtype]
    base = layer.get_base_layer()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(parameter.to(kind))
    held = Values({name: p.detach().clone() for name, p in base.named_parameters()})
    for parameter in base.parameters():
        if not parameter.requires_grad:
            parameter.data = torch.full_like(parameter, float("nan"))  # as it is before the base is loaded
    unit = Unit(
        tuple(
            Tensor(f"inner.{name}", dtype, tuple(value.shape), name=name, nbytes=value.numel() * kind.itemsize)
            for name, value in held.tensors.items()
        ),
        layer,
    )
    made = b"".join(compute.windows(unit, held, source=None))  # type: ignore[arg-type]
    for name, parameter in base.named_parameters():
        if not parameter.requires_grad:
            parameter.data = held.tensors[name].clone()
    wanted = model.merge_and_unload().inner
    assert not torch.equal(wanted.weight, held.tensors["weight"])
    assert made == b"".join(
        p.detach().to(kind).view(torch.uint8).numpy().tobytes() for p in (wanted.weight, wanted.bias)
    )
    assert (held.most == 64 * IN) == is_by_rows
