"""Bottleneck adapters, by `peftjob_bottleneck`, where the papers are named."""

from typing import Any

from peftjob_api import Reason
from peftjob_api.adapter_methods import BottleneckMethod
from peftjob_bottleneck import BOTTLENECK, Settings, inject

from ..exits import TrainerError
from .own import OwnMethod


class Bottleneck(OwnMethod):
    """See there for the interface."""

    kind = BOTTLENECK

    def config(self, model: Any) -> Settings:
        """Return the settings of the layers."""
        wanted = self.spec.method.settings
        assert isinstance(wanted, BottleneckMethod)
        return Settings(wanted.style, wanted.reduction_factor, wanted.nonlinearity, wanted.scale, wanted.dropout)

    def put_into(self, model: Any) -> None:
        """Put the layers into the model.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        try:
            inject(model, self.config(model))
        except ValueError as error:
            raise TrainerError(
                Reason.TARGET_MODULES_NOT_FOUND,
                f"no place for bottleneck adapters: {error}: set spec.method.type to LoRA",
            ) from error
