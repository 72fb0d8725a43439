"""Prefix tuning, by peft. Li and Liang 2021, arXiv:2101.00190."""

import inspect
from typing import Any, Final

import torch
from peft import PrefixTuningConfig
from peftjob_api import Reason
from peftjob_api.prompt_methods import PrefixTuningMethod

from ..exits import TrainerError
from .common import task_type
from .virtual import VirtualTokens

SPREAD: Final = 0.02
"""Of keys and values at first, as of most models' weights; peft's 1 lets random keys draw most of the attention."""


class PrefixTuning(VirtualTokens):
    """See there for the interface."""

    field = "prefixTuning"
    in_input = False

    @property
    def _settings(self) -> PrefixTuningMethod:
        settings = self.spec.method.settings
        assert isinstance(settings, PrefixTuningMethod)
        return settings

    def config(self, model: Any) -> PrefixTuningConfig:
        """Return peft's config."""
        hidden: int = model.config.get_text_config().hidden_size
        return PrefixTuningConfig(
            num_virtual_tokens=self.virtual_tokens,
            prefix_projection=self._settings.projection,
            encoder_hidden_size=self._settings.projection_size or hidden,
            modules_to_save=self.head or None,
            task_type=task_type(self.spec),
        )

    def inject(self, model: Any) -> Any:
        """See `Method`.

        Raises:
            TrainerError: `INVALID_CONFIG`: the model takes no keys and values from outside.
        """
        inner = getattr(model, model.base_model_prefix, model)
        if not any("past_key_values" in inspect.signature(each.forward).parameters for each in (model, inner)):
            raise TrainerError(
                Reason.INVALID_CONFIG,
                f"{type(model).__name__} takes no keys and values from outside: set spec.method.type to PromptTuning, "
                f"PTuning, LoRA or Bottleneck",
            )
        adapted = super().inject(model)
        if not self._settings.projection:
            weight = adapted.prompt_encoder["default"].embedding.weight
            with torch.no_grad():
                # Drawn on the CPU, for the same numbers on any device.
                weight.copy_(torch.nn.init.normal_(torch.empty(weight.shape), std=SPREAD))
        return adapted
