"""LoRA, by peft, and its variants. Hu et al. 2021, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732;
DoRA: Liu et al. 2024, arXiv:2402.09353; LoRA+: Hayou et al. 2024, arXiv:2402.12354; PiSSA and OLoRA: see `principal`.
"""

import math
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peftjob_api.low_rank_methods import LoRAMethod

from ..sharding import Values, base_name
from . import principal
from .common import Method, task_type, trainable
from .layers import adapted, linear_targets, pattern

_BIAS = {"None": "none", "All": "all", "LoRAOnly": "lora_only"}


class LoRA(Method):
    """See there for the interface."""

    @property
    def settings(self) -> LoRAMethod:
        """The method's settings."""
        lora = self.spec.method.settings
        assert isinstance(lora, LoRAMethod)
        return lora

    def config(self, model: Any) -> LoraConfig:
        """Return peft's config.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        lora, field = self.settings, "spec.method.lora"
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=linear_targets(model, lora.target_modules, f"{field}.targetModules"),
            bias=_BIAS[lora.bias],
            use_rslora=lora.rs_lora,
            use_dora=lora.dora,
            init_lora_weights=True if lora.initialisation == "Default" else lora.initialisation.lower(),
            rank_pattern=pattern(model, lora.rank_pattern, f"{field}.rankPattern"),
            alpha_pattern=pattern(model, lora.alpha_pattern, f"{field}.alphaPattern"),
            modules_to_save=self.head or None,
            exclude_modules=self.head or None,  # of several linear modules in a head peft takes only the last for one
            task_type=task_type(self.spec),
        )

    def inject(self, model: Any) -> Any:
        """Return the model with LoRA in it; what begins as a part of a weight gets its values in `initialise`."""
        config = self.config(model)
        config.init_lora_weights = True  # peft's PiSSA and OLoRA read and change weights, of which there are none yet
        model = self.put_in(model, config)
        if self.settings.initialisation != "Default":
            for _, layer in adapted(model):
                principal.offset(layer)
        return model

    def initialise(self, model: Any, values: Values) -> None:
        """Set what begins as a function of the base's weights: DoRA's lengths, PiSSA's and OLoRA's factors."""
        lora = self.settings
        if lora.initialisation == "Default" and not lora.dora:
            return
        layers = {base_name(layer.get_base_layer().weight): layer for _, layer in adapted(model)}
        if lora.initialisation != "Default":
            principal.initialise(layers, values, lora.initialisation)
        if lora.dora:
            _set_lengths(layers, values)

    def learning_rates(self, model: Any) -> dict[str, float]:
        """Return the ratio of LoRA+ for each B."""
        ratio = self.settings.learning_rate_ratio
        return {name: ratio for name in trainable(model) if ratio != 1.0 and ".lora_B." in name}

    def save(self, model: Any, folder: Path, base: str, revision: str | None) -> None:
        """Write the adapter; one that trains a part of the weight as its difference from what it began as."""
        super().save(model, folder, base, revision)
        lora = self.settings
        if lora.initialisation != "Default":
            principal.double(model, folder, math.sqrt(2) if lora.rs_lora else 2.0)


def _set_lengths(layers: dict[str, Any], values: Values) -> None:
    """Set the lengths that DoRA trains to those of the rows of each weight: B is zero, so the update is, too."""
    shapes = {name: layer.lora_magnitude_vector["default"].weight.shape for name, layer in layers.items()}

    def lengths(name: str, weight: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(weight.float(), dim=0 if layers[name].fan_in_fan_out else 1)

    dtype = next(iter(layers.values())).get_base_layer().weight.dtype
    for name, found in values.each(shapes, lengths, dtype).items():
        with torch.no_grad():
            layers[name].lora_magnitude_vector["default"].weight.copy_(found)
