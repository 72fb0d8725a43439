"""P-tuning, by peft; the network that makes the embeddings is not published. Liu et al. 2021, arXiv:2103.10385."""

from typing import Any

from peft import PromptEncoderConfig
from peftjob_api.prompt_methods import PTuningMethod

from .common import task_type
from .virtual import VirtualTokens


class PTuning(VirtualTokens):
    """See there for the interface."""

    field = "pTuning"

    def config(self, model: Any) -> PromptEncoderConfig:
        """Return peft's config."""
        settings = self.spec.method.settings
        assert isinstance(settings, PTuningMethod)
        return PromptEncoderConfig(
            num_virtual_tokens=settings.virtual_tokens,
            num_transformer_submodules=1,  # an encoder-decoder's decoder has no use for the others
            encoder_reparameterization_type="MLP",
            encoder_hidden_size=settings.hidden_size or model.config.get_text_config().hidden_size,
            modules_to_save=self.head or None,
            task_type=task_type(self.spec),
        )
