"""What is predicted for each task, and how; a row of the table each. Used by `predict`.

Batches are of inputs of like length; answers are in the order of the inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from jinja2 import TemplateError
from peftjob_api import Reason

from ..exits import TrainerError
from .inputs import Inputs
from .loading import Loaded

Answer = dict[str, Any]
Ids = list[int]


@dataclass(frozen=True)
class Settings:
    """Of a run."""

    batch_size: int = 8
    max_new_tokens: int = 256
    temperature: float = 0.0
    """Of sampling; 0 takes the likeliest token each time."""
    seed: int = 42


class Predictor(ABC):
    """Makes answers of inputs."""

    auto_class: ClassVar[str]
    """Of transformers."""
    parts: ClassVar[tuple[str, ...]]
    """Of a row, that it can read; the preferred first."""

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        self.loaded = loaded
        self.settings = settings

    @abstractmethod
    def encode(self, kind: str, value: Any) -> Ids:
        """Return the token ids of an input."""

    @abstractmethod
    def answer(self, batch: Sequence[Ids]) -> list[Answer]:
        """Return the answers to some inputs."""

    def padded(self, batch: Sequence[Ids], *, left: bool) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask`, int64 (rows, longest)."""
        longest, pad = max(map(len, batch)), self.loaded.tokenizer.pad_token_id
        gaps = [longest - len(ids) for ids in batch]
        pairs = list(zip(batch, gaps, strict=True))
        ids = [[pad] * gap + row if left else row + [pad] * gap for row, gap in pairs]
        mask = [[0] * gap + [1] * len(row) if left else [1] * len(row) + [0] * gap for row, gap in pairs]
        return {
            "input_ids": torch.tensor(ids, device=self.loaded.device),
            "attention_mask": torch.tensor(mask, device=self.loaded.device),
        }


class Generator(Predictor):
    """Continues a prompt, or answers a chat."""

    auto_class = "AutoModelForCausalLM"
    parts = ("messages", "prompt", "text")

    def encode(self, kind: str, value: Any) -> Ids:
        """Return the prompt as in training: the text alone, or in the chat template up to the answer."""
        tokenizer = self.loaded.tokenizer
        if kind == "text" and not self.loaded.usage.chat:
            ids = list(tokenizer(value, verbose=False)["input_ids"])
            # As in training: some tokenizers end every text.
            return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id != tokenizer.bos_token_id else ids
        messages = value if kind == "messages" else [{"role": "user", "content": value}]
        while len(messages) > 1 and messages[-1]["role"] == "assistant":
            messages = messages[:-1]  # of data that was trained on: what is asked for
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError) as error:
            raise TrainerError(
                Reason.DATASET_MALFORMED, f"the tokenizer's chat template refuses an input: {error}"
            ) from error
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def answer(self, batch: Sequence[Ids]) -> list[Answer]:
        """Return `completion` of each."""
        tokenizer, settings = self.loaded.tokenizer, self.settings
        inputs = self.padded([ids or [tokenizer.pad_token_id] for ids in batch], left=True)
        sampling = {"do_sample": True, "temperature": settings.temperature} if settings.temperature else {}
        found = self.loaded.model.generate(
            **inputs,
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **({"do_sample": False} | sampling),
        )
        new = found[:, inputs["input_ids"].shape[1] :].tolist()
        return [{"completion": tokenizer.decode(ids, skip_special_tokens=True)} for ids in new]


class Classifier(Predictor):
    """Tells the label of a text."""

    auto_class = "AutoModelForSequenceClassification"
    parts = ("text",)

    def encode(self, kind: str, value: Any) -> Ids:
        """Return the text, cut as in training."""
        longest = self.loaded.usage.max_length
        return list(self.loaded.tokenizer(value, truncation=True, max_length=longest)["input_ids"])

    def answer(self, batch: Sequence[Ids]) -> list[Answer]:
        """Return `label`, its `score`, and the `scores` of all labels, of each."""
        scores = self.loaded.model(**self.padded(batch, left=False)).logits.float().softmax(-1).tolist()
        known = self.loaded.usage.labels or [str(number) for number in range(len(scores[0]))]
        return [_labelled(dict(zip(known, row, strict=True))) for row in scores]


def _labelled(scores: dict[str, float]) -> Answer:
    best = max(scores, key=lambda label: scores[label])
    return {"label": best, "score": scores[best], "scores": scores}


PREDICTORS: Final[dict[str, type[Predictor]]] = {"CausalLM": Generator, "SequenceClassification": Classifier}
"""Task -> its predictor."""


@torch.no_grad()
def predict(loaded: Loaded, inputs: Inputs, settings: Settings) -> list[Answer]:
    """Return the answers, in the order of the inputs.

    Raises:
        TrainerError: `DATASET_MALFORMED`: an input that cannot be encoded.
    """
    predictor = PREDICTORS[loaded.usage.task](loaded, settings)
    encoded = [predictor.encode(inputs.kind, value) for value in inputs.values]
    order = sorted(range(len(encoded)), key=lambda number: len(encoded[number]))
    answers: list[Answer] = [{}] * len(encoded)
    torch.manual_seed(settings.seed)
    for at in range(0, len(order), settings.batch_size):
        chosen = order[at : at + settings.batch_size]
        for number, answer in zip(chosen, predictor.answer([encoded[n] for n in chosen]), strict=True):
            answers[number] = answer
    return answers
