"""What the model learns to do: `spec.task`, and the settings of each task."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .base import ApiModel, Rule
from .forms import Label, variant_rules


class CausalLMTask(ApiModel):
    """Settings of the task CausalLM."""

    loss_on: Literal["Completions", "AllTokens"] = "Completions"
    """lossOn says which tokens are learned: `Completions` (of prompt/completion pairs, and the assistant's turns of
    a chat) or `AllTokens`. Plain text is always learned whole."""


class SequenceClassificationTask(ApiModel):
    """Settings of the task SequenceClassification."""

    labels: Annotated[list[Label], Field(min_length=2, max_length=256)] | None = None
    """labels in the order of the classifier's outputs. Default: the sorted distinct labels of the training data."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.labels) || self.labels.all(l, self.labels.exists_one(m, m == l))",
            lambda t: t.labels is None or len(set(t.labels)) == len(t.labels),
            "labels has a label twice: remove the repetition",
            ".labels",
        ),
    )


class TaskSpec(ApiModel):
    """What the model learns to do."""

    type: Literal["CausalLM", "SequenceClassification"] = "CausalLM"
    """type of the task: `CausalLM` (continue text, answer prompts, chat) or `SequenceClassification` (one label per
    text)."""
    causal_lm: Annotated[CausalLMTask | None, Field(alias="causalLM")] = None
    """causalLM holds settings of the task `CausalLM`."""
    sequence_classification: SequenceClassificationTask | None = None
    """sequenceClassification holds settings of the task `SequenceClassification`."""

    rules: ClassVar[tuple[Rule, ...]] = variant_rules(
        "task", {"causalLM": "CausalLM", "sequenceClassification": "SequenceClassification"}
    )
