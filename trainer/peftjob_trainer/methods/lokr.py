"""LoKr, by peft: a Kronecker product of a small and a low-rank matrix. Yeh et al. 2023, arXiv:2309.14859."""

from typing import Any

from peft import LoKrConfig
from peftjob_api.weight_methods import LoKrMethod

from .common import Method, task_type
from .layers import linear_targets

_NEAREST = -1
"""peft's word for the factor nearest to the square root."""


class LoKr(Method):
    """See there for the interface."""

    def config(self, model: Any) -> LoKrConfig:
        """Return peft's config.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        lokr = self.spec.method.settings
        assert isinstance(lokr, LoKrMethod)
        return LoKrConfig(
            r=lokr.rank,
            alpha=lokr.alpha,
            module_dropout=lokr.module_dropout,
            decompose_factor=lokr.factor or _NEAREST,
            decompose_both=lokr.decompose_both,
            target_modules=linear_targets(model, lokr.target_modules, "spec.method.lokr.targetModules"),
            modules_to_save=self.head or None,
            exclude_modules=self.head or None,
            task_type=task_type(self.spec),
        )
