"""OFT, by peft: rotations of the inputs of linear modules. Qiu et al. 2023, arXiv:2306.07280, and arXiv:2506.19847."""

from typing import Any

from peft import OFTConfig
from peftjob_api.weight_methods import OFTMethod

from .common import Method, task_type
from .layers import linear_targets


class OFT(Method):
    """See there for the interface."""

    def config(self, model: Any) -> OFTConfig:
        """Return peft's config.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        oft = self.spec.method.settings
        assert isinstance(oft, OFTMethod)
        return OFTConfig(
            oft_block_size=oft.block_size,
            module_dropout=oft.module_dropout,
            target_modules=linear_targets(model, oft.target_modules, "spec.method.oft.targetModules"),
            modules_to_save=self.head or None,
            exclude_modules=self.head or None,
            task_type=task_type(self.spec),
        )
