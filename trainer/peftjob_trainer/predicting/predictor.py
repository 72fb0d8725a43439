"""What predicts for a task: the interface of all. Each kind has a class in `writers` or `classifiers`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..tasks.common import pad_ids
from .loading import Loaded

Answer = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Of a run."""

    batch_size: int = 8
    max_new_tokens: int = 256
    temperature: float = 0.0
    """Of sampling; 0 takes the likeliest token each time."""
    seed: int = 42


@dataclass(frozen=True)
class Question:
    """An input as the model reads it."""

    ids: list[int]
    about: Any = None
    """What else an answer is made of."""


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
    def encode(self, kind: str, value: Any) -> Question:
        """Return an input in tokens.

        Raises:
            TrainerError: `DATASET_MALFORMED`: it cannot be.
        """

    @abstractmethod
    def answer(self, batch: Sequence[Question]) -> list[Answer]:
        """Return the answers to some inputs."""

    def padded(self, batch: Sequence[Question], *, left: bool = False) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask`, int64 (rows, longest)."""
        pad = self.loaded.tokenizer.pad_token_id
        tensors = pad_ids([question.ids or [pad] for question in batch], pad, on_left=left)
        return {name: tensor.to(self.loaded.device) for name, tensor in tensors.items()}
