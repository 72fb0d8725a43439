"""How long, how fast, how precisely: `spec.training`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .base import INT32_MAX, ApiModel, Rule
from .metrics import GENERATED, Metric


class GenerateSpec(ApiModel):
    """What the model writes in an evaluation: greedily, so that it is the same each time."""

    max_new_tokens: Annotated[int, Field(ge=1, le=32768)] = 64
    """maxNewTokens is how many tokens a text has at most. Each costs the traffic of a forward pass: of a partitioned
    base, all of its bytes."""
    max_samples: Annotated[int, Field(ge=1, le=INT32_MAX)] = 100
    """maxSamples is for how many of the first samples of the data the model writes."""


class EvaluationSpec(ApiModel):
    """When and how the validation data is evaluated."""

    every_steps: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = None
    """everySteps is the number of steps between evaluations. Default: at the end of each epoch."""
    max_samples: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = None
    """maxSamples bounds an evaluation to the first samples of the validation data. Default: all."""
    metric: Metric | None = None
    """metric chooses the best step, by its highest value; of `Loss`, `RMSE` and `MAE` by the lowest; of steps with the
    same value that of the lowest loss. Default: the first that fits: CausalLM, Seq2SeqLM: `Loss`, and with generate
    `ChrF`, `BLEU`, `ROUGEL`, `ExactMatch`. SequenceClassification: `Accuracy`, `MacroF1`, `Loss`; of MultiLabel
    `MicroF1`, `MacroF1`, `Accuracy` (rows with all labels right), `Loss`; of Regression `RMSE`, `MAE`, `Pearson`,
    `Spearman`, `Loss`. TokenClassification: `F1`, `Precision`, `Recall` (of whole names), `Accuracy` (of words),
    `Loss`; of Plain `Accuracy`, `MacroF1`, `Loss`.
    PreferenceOptimisation: `Loss`, `Accuracy` (of which answer is preferred), `Margin` (of the rewards).
    Ranking: `NDCGAt10`, `RecallAt10`, `MRR`, `Loss`."""
    generate: GenerateSpec | None = None
    """generate lets the model write, for prompts of the data, and compares this with what is written there. For
    CausalLM with prompts or chats, and Seq2SeqLM."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.metric) || !(self.metric in {list(GENERATED)}) || has(self.generate)",
            lambda e: e.metric not in GENERATED or e.generate is not None,
            f"metric is one of {', '.join(GENERATED)}, which judge what the model writes: set generate",
            ".metric",
        ),
    )


class EarlyStoppingSpec(ApiModel):
    """When to stop before the last step."""

    patience: Annotated[int, Field(ge=1, le=10000)]
    """patience is the number of evaluations in a row without improvement after which training stops."""
    min_delta: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """minDelta is the change of the metric that counts as an improvement."""


class TrainingSpec(ApiModel):
    """How long, how fast, how precisely."""

    epochs: Annotated[float, Field(gt=0, le=10000)] | None = None
    """epochs is the number of passes over the training data. Default, unless maxSteps is set: 3, or up to 75 where the
    examples are few, 8 with validation data, 1 where they are very many (docs/choosing.md)."""
    max_steps: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = None
    """maxSteps is the number of optimiser steps, instead of epochs."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """batchSize is the number of examples per optimiser step, over all workers. Default: 16, 32 or 64, by the number
    of examples and the task (docs/choosing.md)."""
    micro_batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """microBatchSize is the most examples (rows, with `dataset.packing`) that one device computes at once; gradients
    are accumulated up to batchSize. Of Ranking its items are the negatives of its queries. Default: 8, of
    Ranking 32, or batchSize if that is less."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """learningRate at its peak. Default: by the method and the width of the model (docs/choosing.md)."""
    schedule: Literal["Linear", "Cosine", "Constant"] = "Linear"
    """schedule of the learning rate after the warm-up: down to zero by `Linear` or `Cosine`, or `Constant`."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """warmupRatio is the share of the steps in which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0
    """weightDecay of AdamW."""
    max_grad_norm: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """maxGradNorm clips the gradient to this norm; 0 turns clipping off."""
    seed: Annotated[int, Field(ge=0, le=INT32_MAX)] = 42
    """seed of the initialisation, the order of the samples and dropout."""
    precision: Literal["Auto", "FP32", "BF16"] = "Auto"
    """precision of the frozen model and of the computation; what is trained is always fp32. `Auto`: BF16 on
    accelerators that have it, else FP32."""
    gradient_checkpointing: bool = False
    """gradientCheckpointing recomputes activations in the backward pass: less memory, more time."""
    log_every_steps: Annotated[int, Field(ge=1, le=INT32_MAX)] = 10
    """logEverySteps is the number of steps between progress lines in rank 0's log."""
    evaluation: EvaluationSpec | None = None
    """evaluation during training, of the validation data. Default for Seq2SeqLM: `metric: ChrF` with `generate: {}`."""
    early_stopping: EarlyStoppingSpec | None = None
    """earlyStopping ends training when evaluations no longer improve."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.epochs) && has(self.maxSteps))",
            lambda t: t.epochs is None or t.max_steps is None,
            "epochs and maxSteps contradict each other: set one",
            ".maxSteps",
        ),
        Rule(
            "!has(self.microBatchSize) || !has(self.batchSize) || self.microBatchSize <= self.batchSize",
            lambda t: t.micro_batch_size is None or t.batch_size is None or t.micro_batch_size <= t.batch_size,
            "microBatchSize is larger than batchSize: batchSize counts the examples of all workers together",
            ".microBatchSize",
        ),
    )
