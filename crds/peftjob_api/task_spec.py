"""What the model learns to do: `spec.task`, and the settings of each task."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from .base import ApiModel, Rule
from .forms import Label, variant_rules


class CausalLMTask(ApiModel):
    """Settings of the task CausalLM."""

    loss_on: Literal["Completions", "AllTokens"] = "Completions"
    """lossOn says which tokens are learned: `Completions` (of prompt/completion pairs, and the assistant's turns of
    a chat) or `AllTokens`. Plain text is always learned whole."""


_DISTINCT_LABELS = Rule(
    "!has(self.labels) || self.labels.all(l, self.labels.exists_one(m, m == l))",
    lambda t: t.labels is None or len(set(t.labels)) == len(t.labels),
    "labels has a label twice: remove the repetition",
    ".labels",
)


class SequenceClassificationTask(ApiModel):
    """Settings of the task SequenceClassification."""

    labels: Annotated[list[Label], Field(min_length=2, max_length=256)] | None = None
    """labels in the order of the classifier's outputs. Default: the sorted distinct labels of the training data."""
    problem: Literal["SingleLabel", "MultiLabel", "Regression"] = "SingleLabel"
    """problem is what the label column holds: one label per text (`SingleLabel`), a list of labels, which may be empty
    (`MultiLabel`; in CSV separated by `|`), or a number (`Regression`; best scaled to about -1 to 1)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _DISTINCT_LABELS,
        Rule(
            "self.problem != 'Regression' || !has(self.labels)",
            lambda t: t.problem != "Regression" or t.labels is None,
            "labels has no meaning with problem Regression, which predicts a number: remove it",
            ".labels",
        ),
    )


class TokenClassificationTask(ApiModel):
    """Settings of the task TokenClassification."""

    labels: Annotated[list[Label], Field(min_length=1, max_length=256)] | None = None
    """labels of what is found in a text, such as PER and LOC, without `B-` and `I-`. Default: the sorted distinct
    labels of the training data."""
    scheme: Literal["BIO", "Plain"] = "BIO"
    """scheme of the tags: `BIO` (`B-PER` begins a name, `I-PER` goes on with it, `O` is nothing; judged by whole names)
    or `Plain` (each word has a label of its own, such as its part of speech)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _DISTINCT_LABELS,
        Rule(
            "self.scheme != 'BIO' || !has(self.labels) || "
            "self.labels.all(l, l != 'O' && !l.startsWith('B-') && !l.startsWith('I-'))",
            lambda t: t.scheme != "BIO" or not any(la == "O" or la.startswith(("B-", "I-")) for la in t.labels or ()),
            "labels has tags: write the labels only, such as PER; O, B-PER and I-PER are made of them",
            ".labels",
        ),
    )


class Seq2SeqLMTask(ApiModel):
    """Settings of the task Seq2SeqLM."""

    source_prefix: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    """sourcePrefix is put before each source text, such as `translate English to German: ` for T5."""


class AugmentationSpec(ApiModel):
    """How the images of the training data are varied, anew in each epoch; those of evaluations stay as they are."""

    min_crop_area: Annotated[float, Field(gt=0, le=1)] = 0.7
    """minCropArea is the least share of an image's area that a random crop keeps; 1 crops nothing."""
    horizontal_flip: bool = False
    """horizontalFlip mirrors half of the images: not for what has a left and a right, such as digits or organs."""


class ImageClassificationTask(ApiModel):
    """Settings of the task ImageClassification."""

    labels: Annotated[list[Label], Field(min_length=2, max_length=256)] | None = None
    """labels in the order of the classifier's outputs. Default: the sorted distinct labels of the training data."""
    augmentation: AugmentationSpec = AugmentationSpec()
    """augmentation says how the images of the training data are varied."""

    rules: ClassVar[tuple[Rule, ...]] = (_DISTINCT_LABELS,)


class PreferenceOptimisationTask(ApiModel):
    """Settings of the task PreferenceOptimisation."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """beta is how strongly the model is held to what the base says: the smaller, the further it may go from there."""
    label_smoothing: Annotated[float, Field(ge=0, le=0.49)] = 0.0
    """labelSmoothing is the share of rows that are taken to prefer the wrong answer (Mitchell 2023, "A note on DPO with
    noisy preferences")."""


class RankingTask(ApiModel):
    """Settings of the task Ranking."""

    temperature: Annotated[float, Field(ge=0.001, le=10)] = 0.05
    """temperature divides the cosines in the loss: the smaller, the more the hardest negatives count."""
    pooling: Literal["Auto", "Mean", "LastToken"] = "Auto"
    """pooling makes one vector of a text's tokens: their `Mean`, or that of the `LastToken`. `Auto`: Mean of encoders,
    LastToken of decoders."""


TASK_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "causalLM": "CausalLM",
        "seq2seqLM": "Seq2SeqLM",
        "sequenceClassification": "SequenceClassification",
        "tokenClassification": "TokenClassification",
        "imageClassification": "ImageClassification",
        "preferenceOptimisation": "PreferenceOptimisation",
        "ranking": "Ranking",
    }
)
"""Field with a task's settings -> the task's type."""


class TaskSpec(ApiModel):
    """What the model learns to do."""

    type: Literal[
        "CausalLM",
        "Seq2SeqLM",
        "SequenceClassification",
        "TokenClassification",
        "ImageClassification",
        "PreferenceOptimisation",
        "Ranking",
    ] = "CausalLM"
    """type of the task: `CausalLM` (continue text, answer prompts, chat), `Seq2SeqLM` (one text into another by an
    encoder-decoder model: translate, summarise), `SequenceClassification` (labels or a number per text),
    `TokenClassification` (labels of words, or of spans of a text), `ImageClassification` (a label per image),
    `PreferenceOptimisation` (of two answers to a prompt rather the one than the other: DPO, Rafailov et al. 2023,
    arXiv:2305.18290) or `Ranking` (which item fits a query or a history, by the likeness of their vectors)."""
    causal_lm: Annotated[CausalLMTask | None, Field(alias="causalLM")] = None
    """causalLM holds settings of the task `CausalLM`."""
    seq2seq_lm: Annotated[Seq2SeqLMTask | None, Field(alias="seq2seqLM")] = None
    """seq2seqLM holds settings of the task `Seq2SeqLM`."""
    sequence_classification: SequenceClassificationTask | None = None
    """sequenceClassification holds settings of the task `SequenceClassification`."""
    token_classification: TokenClassificationTask | None = None
    """tokenClassification holds settings of the task `TokenClassification`."""
    image_classification: ImageClassificationTask | None = None
    """imageClassification holds settings of the task `ImageClassification`."""
    preference_optimisation: PreferenceOptimisationTask | None = None
    """preferenceOptimisation holds settings of the task `PreferenceOptimisation`."""
    ranking: RankingTask | None = None
    """ranking holds settings of the task `Ranking`."""

    rules: ClassVar[tuple[Rule, ...]] = variant_rules("task", TASK_OF)

    @property
    def kind(self) -> str:
        """The type, and what else decides loss and metrics, such as `SequenceClassification/Regression`."""
        if self.type == "SequenceClassification" and self.sequence_classification is not None:
            problem = self.sequence_classification.problem
            return self.type if problem == "SingleLabel" else f"{self.type}/{problem}"
        if self.type == "TokenClassification" and self.token_classification is not None:
            return self.type if self.token_classification.scheme == "BIO" else f"{self.type}/Plain"
        return self.type

    @property
    def labels(self) -> list[str] | None:
        """The labels that the task's settings list, if they do."""
        for settings in (self.sequence_classification, self.token_classification, self.image_classification):
            if settings is not None and settings.labels is not None:
                return settings.labels
        return None
