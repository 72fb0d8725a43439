"""Predictors that tell labels or numbers: of texts, of the words in them, and of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch

from ..data.pictures import decode, processed
from ..tasks.common import prepended
from .inputs import Shown
from .predictor import Answer, Predictor, Question


class Classifier(Predictor):
    """Tells the label of a text."""

    auto_class = "AutoModelForSequenceClassification"
    parts: ClassVar[tuple[str, ...]] = ("text",)

    def encode(self, kind: str, value: Any) -> Question:
        """Return the text, cut as in training."""
        longest = self.loaded.usage.max_length
        return Question(list(self.loaded.tokenizer(value, truncation=True, max_length=longest)["input_ids"]))

    def logits(self, batch: Sequence[Question]) -> torch.Tensor:
        """Return what the head gives, fp32 (rows, outputs) or (rows, longest, outputs)."""
        logits: torch.Tensor = self.loaded.model(**self.padded(batch)).logits
        return logits.float()

    @property
    def labels(self) -> Sequence[str]:
        """Names of the outputs: their numbers, if nobody named them."""
        count = self.loaded.model.config.num_labels
        return self.loaded.usage.labels or [str(number) for number in range(count)]

    def answer(self, batch: Sequence[Question]) -> list[Answer]:
        """Return `label`, its `score`, and the `scores` of all labels, of each."""
        found = [dict(zip(self.labels, row, strict=True)) for row in self.logits(batch).softmax(-1).tolist()]
        best = [max(scores, key=lambda label: scores[label]) for scores in found]
        return [{"label": b, "score": scores[b], "scores": scores} for b, scores in zip(best, found, strict=True)]


class ImageClassifier(Classifier):
    """Tells the label of an image."""

    auto_class = "AutoModelForImageClassification"
    parts = ("image",)

    def encode(self, kind: str, value: Shown) -> Question:
        """Return the image file; pixels of many would fill the memory."""
        return Question([], value)

    def logits(self, batch: Sequence[Question]) -> torch.Tensor:
        """Return what the head gives, fp32 (rows, outputs)."""
        images = [decode(question.about.file, question.about.where) for question in batch]
        pixels = processed(images, self.loaded.tokenizer).to(self.loaded.device)
        logits: torch.Tensor = self.loaded.model(pixel_values=pixels).logits
        return logits.float()

    def answer(self, batch: Sequence[Question]) -> list[Answer]:
        """Return `image` (its path, or the row that holds it) and what `Classifier` returns, of each."""
        answers = super().answer(batch)
        return [{"image": question.about.where, **answer} for question, answer in zip(batch, answers, strict=True)]


class MultiLabelClassifier(Classifier):
    """Tells all labels of a text."""

    def answer(self, batch: Sequence[Question]) -> list[Answer]:
        """Return `labels`, those with a score above a half, and the `scores` of all, of each."""
        found = [dict(zip(self.labels, row, strict=True)) for row in self.logits(batch).sigmoid().tolist()]
        return [{"labels": [la for la, score in scores.items() if score > 0.5], "scores": scores} for scores in found]


class Regressor(Classifier):
    """Tells a number of a text."""

    def answer(self, batch: Sequence[Question]) -> list[Answer]:
        """Return `number` of each."""
        return [{"number": number} for number in self.logits(batch)[:, 0].tolist()]


@dataclass(frozen=True)
class _Words:
    """The words of a text."""

    text: str
    places: list[tuple[int, int]]
    """Of each word, in characters."""
    tokens: list[int | None]
    """Number of each word's first token, whose tag is the word's; None for a word that was cut off."""
    given: bool
    """Whether the words came as a list."""


class Tagger(Classifier):
    """Tells the names in a text, or a label of each of its words."""

    auto_class = "AutoModelForTokenClassification"
    parts = ("tokens", "text")

    def encode(self, kind: str, value: Any) -> Question:
        """Return a text or words, cut as in training; the words of a text are those of the tokenizer."""
        text = value if kind == "text" else " ".join(value)
        encoded = self.loaded.tokenizer(
            text, truncation=True, max_length=self.loaded.usage.max_length, return_offsets_mapping=True
        )
        offsets = encoded["offset_mapping"]
        places = _places(value) if kind == "tokens" else _words_of(encoded.word_ids(), offsets)
        tokens = [_first_in(offsets, begin, end) for begin, end in places]
        return Question(list(encoded["input_ids"]), _Words(text, places, tokens, kind == "tokens"))

    def answer(self, batch: Sequence[Question]) -> list[Answer]:
        """Return of each `tags` of the words that were given (null for those that were cut off), or of a text `spans`.

        A span has `start`, `end`, `label` and `text`; in the scheme BIO it is a name, else a word.
        """
        labels = self.labels
        best = self.logits(batch)[:, prepended(self.loaded.model) :].argmax(-1).tolist()
        answers: list[Answer] = []
        for question, row in zip(batch, best, strict=True):
            words: _Words = question.about
            tags = [None if at is None else labels[row[at]] for at in words.tokens]
            answers.append({"tags": tags} if words.given else {"spans": self._spans(words, tags)})
        return answers

    def _spans(self, words: _Words, tags: Sequence[str | None]) -> list[Answer]:
        from seqeval.metrics.sequence_labeling import get_entities

        known = [tag or "O" for tag in tags]
        is_plain = self.loaded.usage.kind == "TokenClassification/Plain"
        found = [(t, n, n) for n, t in enumerate(known)] if is_plain else get_entities(known)
        spans = [(label, words.places[first][0], words.places[last][1]) for label, first, last in found]
        return [{"start": b, "end": e, "label": label, "text": words.text[b:e]} for label, b, e in spans]


def _places(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return where words are in a text in which a space separates them."""
    places, begin = [], 0
    for word in words:
        places.append((begin, begin + len(word)))
        begin += len(word) + 1
    return places


def _words_of(numbers: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return where the tokenizer's words are in a text, from the word's number and the place of each token."""
    tokens = [(n, place) for n, place in zip(numbers, offsets, strict=True) if n is not None and place[0] < place[1]]
    words = [[place for _, place in group] for _, group in groupby(tokens, key=lambda token: token[0])]
    return [(places[0][0], places[-1][1]) for places in words]


def _first_in(offsets: Sequence[tuple[int, int]], begin: int, end: int) -> int | None:
    """Return the number of the first token with a character of a word."""
    return next((n for n, (b, e) in enumerate(offsets) if b < e and e > begin and b < end), None)
