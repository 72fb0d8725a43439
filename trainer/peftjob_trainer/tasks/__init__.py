"""Tasks, a module with a class each; chosen by `spec.task.type`. Used by `session` and `planning`."""

from collections.abc import Sequence
from typing import Any

from peftjob_api import PeftJobSpec

from .causal_lm import CausalLM
from .common import Task
from .image_classification import ImageClassification
from .judge import judge
from .preference_optimisation import PreferenceOptimisation
from .ranking import Ranking
from .seq2seq_lm import Seq2SeqLM
from .sequence_classification import MultiLabel, Regression, SequenceClassification
from .token_classification import PlainTokenClassification, TokenClassification

__all__ = ["Task", "judge", "task_of"]

_TASKS: dict[str, type[Task]] = {
    "CausalLM": CausalLM,
    "Seq2SeqLM": Seq2SeqLM,
    "SequenceClassification": SequenceClassification,
    "SequenceClassification/MultiLabel": MultiLabel,
    "SequenceClassification/Regression": Regression,
    "TokenClassification": TokenClassification,
    "TokenClassification/Plain": PlainTokenClassification,
    "ImageClassification": ImageClassification,
    "PreferenceOptimisation": PreferenceOptimisation,
    "Ranking": Ranking,
}
"""`TaskSpec.kind` -> its class."""


def task_of(spec: PeftJobSpec, pad: int, labels: Sequence[str] | None, tokenizer: Any = None) -> Task:
    """Return the task of a job; for the arguments see `Task`."""
    return _TASKS[spec.task.kind](spec, pad, labels, tokenizer)
