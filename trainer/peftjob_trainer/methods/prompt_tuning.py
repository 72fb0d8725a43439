"""Prompt tuning, by peft, begun from the base's own embeddings. Lester et al. 2021, arXiv:2104.08691."""

from typing import Any

import torch
from peft import PromptTuningConfig
from peftjob_api import Reason
from peftjob_api.prompt_methods import PromptTuningMethod

from ..exits import TrainerError
from ..sharding import Values, base_name
from .common import task_type
from .virtual import VirtualTokens


class PromptTuning(VirtualTokens):
    """See there for the interface."""

    field = "promptTuning"

    @property
    def _settings(self) -> PromptTuningMethod:
        settings = self.spec.method.settings
        assert isinstance(settings, PromptTuningMethod)
        return settings

    def config(self, model: Any) -> PromptTuningConfig:
        """Return peft's config; its own ways to begin would read the base, which has no data yet."""
        return PromptTuningConfig(
            num_virtual_tokens=self.virtual_tokens,
            num_transformer_submodules=1,  # an encoder-decoder's decoder has no use for the others
            prompt_tuning_init="RANDOM",
            modules_to_save=self.head or None,
            task_type=task_type(self.spec),
        )

    def initialise(self, model: Any, values: Values) -> None:
        """Set the embeddings to those of tokens, of the text or drawn from the vocabulary.

        Raises:
            TrainerError: `INVALID_CONFIG`: the text has no tokens.
        """
        if self._settings.init == "Random":
            return
        own = model.prompt_encoder["default"].embedding.weight
        embeddings = model.get_base_model().get_input_embeddings()
        ids = self._ids(len(own))
        rows = values.rows(base_name(embeddings.weight), ids, torch.float32)
        # Some models scale what they look up, and find virtual tokens scaled already.
        own.data = rows.mul_(getattr(embeddings, "scalar_embed_scale", 1.0)).to(own.device)

    def _ids(self, count: int) -> list[int]:
        """Return the tokens whose embeddings the virtual ones begin as."""
        if self._settings.init == "Vocabulary":
            chance = torch.Generator().manual_seed(self.spec.training.seed)
            drawn: list[int] = torch.randint(0, len(self.tokenizer), (count,), generator=chance).tolist()
            return drawn
        ids: list[int] = self.tokenizer(self._settings.init_text, add_special_tokens=False).input_ids
        if not ids:
            raise TrainerError(
                Reason.INVALID_CONFIG,
                "spec.method.promptTuning.initText: the tokenizer makes no tokens of it: write a description of the "
                "task, or set init to Vocabulary",
            )
        return [ids[at % len(ids)] for at in range(count)]
