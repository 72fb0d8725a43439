"""Tuning of layer norms, by peft. Zhao et al. 2023, arXiv:2312.11420.

peft trains copies of the norms; what these begin with is read like the norms themselves, whole and in fp32.
"""

import warnings
from typing import Any

import torch
from peft import LNTuningConfig
from peftjob_api import Reason
from peftjob_api.adapter_methods import LayerNormTuningMethod

from ..exits import TrainerError
from .common import Method, task_type
from .names import check_names, is_named


class LayerNormTuning(Method):
    """See there for the interface."""

    def config(self, model: Any) -> LNTuningConfig:
        """Return peft's config.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        settings = self.spec.method.settings
        assert isinstance(settings, LayerNormTuningMethod)
        norms = [name for name in norms_of(model) if not any(is_named(name, head) for head in self.whole)]
        if not norms:
            raise TrainerError(
                Reason.TARGET_MODULES_NOT_FOUND,
                f"{type(model).__name__} has no layer norms with weights: set spec.method.type to LoRA or Bottleneck",
            )
        wanted = settings.target_modules
        if wanted is not None:
            check_names(wanted, norms, "spec.method.layerNormTuning.targetModules", "layer norm")
            norms = [name for name in norms if any(is_named(name, each) for each in wanted)]
        return LNTuningConfig(
            target_modules=norms,
            modules_to_save=self.head or None,
            task_type=task_type(self.spec),
        )

    def inject(self, model: Any) -> Any:
        """See `Method`."""
        with warnings.catch_warnings():
            # peft has no width for norms, which it does not need.
            warnings.filterwarnings("ignore", message="Unsupported layer type")
            return super().inject(model)


def norms_of(model: torch.nn.Module) -> list[str]:
    """Return the names of a model's layer norms, RMS norms among them, which each model calls its own way.

    Batch norms are none: what they compute in training depends on the other rows of a micro batch.
    """
    return [
        name
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and "batch" not in type(module).__name__.lower()
        and next(module.children(), None) is None
        and getattr(module, "weight", None) is not None
    ]
