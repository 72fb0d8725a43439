"""LoRA that begins as a part of the weight, and trains it in the weight's stead. Used by `lora`.

PiSSA (Meng et al. 2024, arXiv:2404.02948) begins with the largest singular values and vectors of a weight W, OLoRA
(Buyukakyuz 2024, arXiv:2406.01775) with the first rows of its QR decomposition, and both with W less that part as the
frozen rest: y = (W - s B0 A0) x + s B A x. Here W stays as it is, and the adapted module's output is taken down by
s B0 A0 x, which is the same sum. So the base is read as any other, serves as the reference of DPO, and what is
published is LoRA of twice the rank on W itself, [B, -B0] [A; A0], which is what peft's own conversion makes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..sharding import Values

_ITERATIONS = 16
"""Of the randomised SVD (Halko et al. 2009, arXiv:0909.4061): seconds for the weights for which the exact one takes
minutes, and as good to the last digits that a bf16 weight has."""
_OVERSAMPLED = 8


def offset(layer: Any) -> None:
    """Give an adapted module buffers for A0 and B0 (fp32), and take down its output by them."""
    for name, parameter in (("a", layer.lora_A["default"].weight), ("b", layer.lora_B["default"].weight)):
        layer.register_buffer(f"initial_{name}", torch.zeros_like(parameter), persistent=False)
    layer.register_forward_hook(_take_down)


def _take_down(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Return the output less s B0 A0 x; a hook."""
    if layer.disable_adapters:
        return output
    (x, *_) = inputs
    linear = torch.nn.functional.linear
    part = linear(linear(x.to(layer.initial_a.dtype), layer.initial_a), layer.initial_b)
    return output - (layer.scaling["default"] * part).to(output.dtype)


def initialise(layers: Mapping[str, Any], values: Values, how: str) -> None:
    """Set A and B, and A0 and B0 to the same; each weight is read and factored by one rank of the world.

    Args:
        layers: By the name of the weight in the base.
        values: Of the base.
        how: `PiSSA` or `OLoRA`.
    """
    factors = {"PiSSA": _singular, "OLoRA": _orthogonal}[how]

    def compute(name: str, weight: torch.Tensor) -> torch.Tensor:
        layer = layers[name]
        weight = (weight.T if layer.fan_in_fan_out else weight).float()
        a, b = factors(weight, layer.initial_a.shape[0], layer.scaling["default"])
        return torch.cat([a.flatten(), b.flatten()])

    shapes = {name: (layer.initial_a.numel() + layer.initial_b.numel(),) for name, layer in layers.items()}
    dtype = next(iter(layers.values())).get_base_layer().weight.dtype
    for name, flat in values.each(shapes, compute, dtype).items():
        layer = layers[name]
        a, b = flat.split([layer.initial_a.numel(), layer.initial_b.numel()])
        with torch.no_grad():
            for part, trained, initial in ((a, layer.lora_A, layer.initial_a), (b, layer.lora_B, layer.initial_b)):
                initial.copy_(part.view_as(initial))
                trained["default"].weight.copy_(initial)


def _singular(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (rank, inputs) and B (outputs, rank), the roots of the singular values in each; seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(weight, q=min(rank + _OVERSAMPLED, *weight.shape), niter=_ITERATIONS)
    roots = (s[:rank] / scale).sqrt()
    return roots[:, None] * v[:, :rank].T, u[:, :rank] * roots


def _orthogonal(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A = R and B = Q, cut to the rank; they are not divided by the scale, as in the paper's code."""
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def double(model: Any, folder: Path, growth: float) -> None:
    """Rewrite a saved adapter as LoRA of twice the rank on the untouched weight.

    Args:
        model: That was saved.
        folder: It was saved to.
        growth: What alpha is multiplied by so that the scale stays.
    """
    file, config_file = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = load_file(file)
    for name, module in model.named_modules():
        if not hasattr(module, "initial_a"):
            continue
        a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        tensors[a] = torch.cat([tensors[a], module.initial_a.to(tensors[a])])
        tensors[b] = torch.cat([tensors[b], -module.initial_b.to(tensors[b])], dim=1)
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads(config_file.read_text())
    config |= {"r": 2 * config["r"], "lora_alpha": growth * config["lora_alpha"], "init_lora_weights": True}
    config["rank_pattern"] = {name: 2 * rank for name, rank in config["rank_pattern"].items()}
    config["alpha_pattern"] = {name: growth * alpha for name, alpha in config["alpha_pattern"].items()}
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True))
