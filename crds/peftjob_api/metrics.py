"""Which metrics a task is judged by: values of `spec.training.evaluation.metric`. Used by `spec` and the trainer."""

from typing import Final, Literal

Metric = Literal[
    "Loss", "Accuracy", "MacroF1", "MicroF1", "RMSE", "MAE", "Pearson", "Spearman", "Precision", "Recall", "F1",
    "ChrF", "BLEU", "ROUGEL", "ExactMatch", "Margin",
    "RecallAt10", "NDCGAt10", "MRR",
]  # fmt: skip

GENERATED: Final[tuple[Metric, ...]] = ("ChrF", "BLEU", "ROUGEL", "ExactMatch")
"""Of texts that the model writes, which `training.evaluation.generate` asks for."""

METRICS: Final[dict[str, tuple[Metric, ...]]] = {
    "CausalLM": ("Loss", *GENERATED),
    "Seq2SeqLM": ("Loss", *GENERATED),
    "SequenceClassification": ("Accuracy", "MacroF1", "Loss"),
    "SequenceClassification/MultiLabel": ("MicroF1", "MacroF1", "Accuracy", "Loss"),
    "SequenceClassification/Regression": ("RMSE", "MAE", "Pearson", "Spearman", "Loss"),
    "TokenClassification": ("F1", "Precision", "Recall", "Accuracy", "Loss"),
    "TokenClassification/Plain": ("Accuracy", "MacroF1", "Loss"),
    "ImageClassification": ("Accuracy", "MacroF1", "Loss"),
    "PreferenceOptimisation": ("Loss", "Accuracy", "Margin"),
    "Ranking": ("NDCGAt10", "RecallAt10", "MRR", "Loss"),
}
"""`TaskSpec.kind` -> metrics that fit it, the default first."""

LOWER_IS_BETTER: Final[tuple[Metric, ...]] = ("Loss", "RMSE", "MAE")
