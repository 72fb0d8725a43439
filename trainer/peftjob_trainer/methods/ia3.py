"""IA3, by peft: a factor for each key, value and inner activation. Liu et al. 2022, arXiv:2205.05638."""

from typing import Any

from peft import IA3Config
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS,
)
from peftjob_api import Reason
from peftjob_api.weight_methods import IA3Method

from ..exits import TrainerError
from .common import Method, task_type
from .layers import linear_names, linear_targets

_FIELD = "spec.method.ia3"
_MORE = {"vit": (["k_proj", "v_proj", "fc2"], ["fc2"])}
"""Type of a model that peft does not know -> keys, values and the MLP's last layer, and the latter."""


class IA3(Method):
    """See there for the interface."""

    def config(self, model: Any) -> IA3Config:
        """Return peft's config.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`: one that is named, or nobody knows those of this architecture.
        """
        ia3 = self.spec.method.settings
        assert isinstance(ia3, IA3Method)
        targets: str | list[str]
        if ia3.target_modules is None:
            targets, feedforward = _of_architecture(model)
        else:
            targets = linear_targets(model, ia3.target_modules, f"{_FIELD}.targetModules")
            feedforward = ia3.feedforward_modules or []
        return IA3Config(
            target_modules=targets,
            feedforward_modules=feedforward,
            modules_to_save=self.head or None,
            exclude_modules=self.head or None,
            task_type=task_type(self.spec),
        )


def _of_architecture(model: Any) -> tuple[list[str], list[str]]:
    """Return the modules that are known of an architecture, and those of them whose input is scaled."""
    kind = model.config.model_type
    if kind in _MORE:
        return _MORE[kind]
    if kind not in TARGETS:
        raise TrainerError(
            Reason.TARGET_MODULES_NOT_FOUND,
            f"IA3 has no default modules for models of type {kind}: set {_FIELD}.targetModules to those of keys, "
            f"values and the MLP's last layer, and {_FIELD}.feedforwardModules to the latter, out of "
            f"{linear_names(model)}",
        )
    return TARGETS[kind], FEEDFORWARD[kind]
