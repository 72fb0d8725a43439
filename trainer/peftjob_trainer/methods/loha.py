"""LoHa, by peft: an elementwise product of two low-rank updates. Hyeon-Woo et al. 2021, arXiv:2108.06098."""

from typing import Any

from peft import LoHaConfig
from peftjob_api.weight_methods import LoHaMethod

from .common import Method, task_type
from .layers import linear_targets


class LoHa(Method):
    """See there for the interface."""

    def config(self, model: Any) -> LoHaConfig:
        """Return peft's config.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        loha = self.spec.method.settings
        assert isinstance(loha, LoHaMethod)
        return LoHaConfig(
            r=loha.rank,
            alpha=loha.alpha,
            module_dropout=loha.module_dropout,
            target_modules=linear_targets(model, loha.target_modules, "spec.method.loha.targetModules"),
            modules_to_save=self.head or None,
            exclude_modules=self.head or None,
            task_type=task_type(self.spec),
        )
