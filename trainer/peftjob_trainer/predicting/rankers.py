"""The predictor of vectors, by whose likeness items are ranked."""

from collections.abc import Sequence
from typing import Any, ClassVar

from ..tasks.ranking import vectors
from .predictor import Answer, Predictor, Question


class Embedder(Predictor):
    """Makes a vector of a query or an item: the dot product of two tells how well they fit."""

    auto_class = "AutoModel"
    parts: ClassVar[tuple[str, ...]] = ("query", "item", "text")

    def encode(self, kind: str, value: Any) -> Question:
        """Return the text, cut as in training."""
        longest = self.loaded.usage.max_length
        return Question(list(self.loaded.tokenizer(value, truncation=True, max_length=longest)["input_ids"]))

    def answer(self, batch: Sequence[Question]) -> list[Answer]:
        """Return `embedding` of each, of length 1."""
        found = vectors(self.loaded.model, **self.padded(batch), pooling=self.loaded.usage.settings["pooling"])
        return [{"embedding": row} for row in found.tolist()]
