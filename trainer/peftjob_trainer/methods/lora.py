"""LoRA, by peft. Hu et al. 2021, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732."""

from typing import Any

from peft import LoraConfig
from peftjob_api.method_spec import LoRAMethod

from .common import Method, linear_targets, task_type

_BIAS = {"None": "none", "All": "all", "LoRAOnly": "lora_only"}


class LoRA(Method):
    """See there for the interface."""

    def config(self, model: Any) -> LoraConfig:
        """Return peft's config.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        lora = self.spec.method.settings
        assert isinstance(lora, LoRAMethod)
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=linear_targets(model, lora.target_modules, "spec.method.lora.targetModules"),
            bias=_BIAS[lora.bias],
            use_rslora=lora.rs_lora,
            modules_to_save=self.head or None,
            exclude_modules=self.head or None,  # of several linear modules in a head peft takes only the last for one
            task_type=task_type(self.spec),
        )
