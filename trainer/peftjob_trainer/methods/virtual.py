"""What the methods have in common that put virtual tokens before the input: what no model or setting can have."""

from typing import Any, ClassVar

from peftjob_api import Reason

from ..exits import TrainerError
from .common import Method


class VirtualTokens(Method):
    """A method of peft with virtual tokens."""

    field: ClassVar[str]
    """Of `spec.method`, with the settings."""
    in_input: ClassVar[bool] = True
    """Whether they are computed like tokens of the input, so that they have hidden states."""

    @property
    def virtual_tokens(self) -> int:
        """How many there are."""
        count: int = getattr(self.spec.method.settings, "virtual_tokens")  # noqa: B009 (each has it, no base does)
        return count

    def inject(self, model: Any) -> Any:
        """See `Method`.

        Raises:
            TrainerError: `INVALID_CONFIG`: the model has no room for them, or cannot find the end of the text.
        """
        self._check(model)
        return super().inject(model)

    def _check(self, model: Any) -> None:
        longest, places = self.spec.dataset.max_length, model.config.get_text_config()
        room = getattr(places, "max_position_embeddings", None)
        if room is not None and longest + self.virtual_tokens > room:
            raise TrainerError(
                Reason.INVALID_CONFIG,
                f"spec.dataset.maxLength {longest} and {self.virtual_tokens} virtual tokens are more than the {room} "
                f"positions of the base model: lower maxLength to {max(4, room - self.virtual_tokens)}, or "
                f"spec.method.{self.field}.virtualTokens",
            )
        if self.in_input and self.head == ["score"]:
            raise TrainerError(
                Reason.INVALID_CONFIG,
                f"{type(model).__name__} finds the end of a text by its tokens, which it does not see behind virtual "
                f"ones: set spec.method.type to PrefixTuning, LoRA or Bottleneck, or use an encoder as base model",
            )
