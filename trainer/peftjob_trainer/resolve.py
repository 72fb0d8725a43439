"""What a job leaves open, chosen from its method, its model and its data. Called by `session` and `plan`.

docs/choosing.md argues each rule. What is chosen goes into the log, the status and the report: nothing stays hidden.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from peftjob_api import PeftJobSpec, ResolvedInfo
from peftjob_api.low_rank_methods import LoRAMethod
from peftjob_api.method_spec import MethodSpec
from peftjob_api.prompt_methods import PROMPT_METHODS
from peftjob_api.task_spec import RankingTask, TaskSpec
from peftjob_api.training_spec import EvaluationSpec, GenerateSpec, TrainingSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED_LANGUAGE_MODELS

from .history import deciding_metric
from .order import DEFAULT_MICRO_BATCH
from .sharding.skeleton import read_config

_RATE: Final = 5e-4
"""Of LoRA on a model whose hidden states are `_WIDTH` wide, with alpha twice the rank."""
_WIDTH: Final = 2048
_NARROWER: Final = 0.78
"""The power of the width by which a rate falls: that of Llamas, tinker-docs.thinkingmachines.ai, sl-hyperparams."""
_RATES: Final = {
    "LoRA": 1.0,
    "AdaLoRA": 2.0,
    "VeRA": 10.0,
    "LoHa": 2.0,
    "LoKr": 2.0,
    "OFT": 2.0,
    "IA3": 6.0,
    "PromptTuning": 60.0,
    "PTuning": 6.0,
    "PrefixTuning": 20.0,
    "Bottleneck": 2.0,
    "LayerNormTuning": 4.0,
    "BitFit": 4.0,
    "TrainableTokens": 4.0,
}
"""Method -> its learning rate by that of LoRA: the fewer it trains, and the further from the output, the larger."""
_PREFERENCES: Final = 0.02
"""Of that of learning the text: a preference is learned by far smaller steps."""
_RANKED_BATCH, _RANKED_AT_ONCE = 64, 32
"""Of `Ranking`: the other rows at once are what a row learns to tell apart from its item."""
_SMALL_BATCH, _BATCH, _LARGE_BATCH = 16, 32, 64
_FEW, _USUAL, _MANY = 2_000, 10_000, 50_000
"""Examples up to which a batch is small, and from which on it is large."""
_EPOCHS: Final = 3.0
_FEW_STEPS, _CHOSEN_EPOCHS = 1_000, 8.0
"""With validation data, which chooses the best epoch, up to so many epochs for so many steps."""
_LEAST_STEPS, _MOST_STEPS = 300, 20_000
"""Few examples are seen more often, up to `_MOST_EPOCHS`; of very many not all are seen more than once."""
_MOST_EPOCHS: Final = 75.0
_WRITES: Final = EvaluationSpec(generate=GenerateSpec(), metric="ChrF")
"""What chooses the best epoch of `Seq2SeqLM`: the loss rises while what is written still gets better."""
_SCARCE: Final = 200
"""Examples up to which LoRA's rank is small enough to train less than 2 % of a base."""
_WIDTH_PER_RANK: Final = 75
"""Of all linear modules of a transformer layer, a rank trains about 1.5 / width of the parameters."""

_WIDTHS: Final = ("hidden_size", "d_model", "n_embd")
_POSITIONS: Final = ("max_position_embeddings", "n_positions")
"""What configs call these."""
_NO_LIMIT: Final = 10**9
"""Tokenizers without a limit give a larger one."""


class ResolvedTraining(TrainingSpec):
    """`spec.training` with nothing left open."""

    batch_size: int
    learning_rate: float


class ResolvedSpec(PeftJobSpec):
    """A spec with nothing left open that training needs."""

    training: ResolvedTraining


@dataclass(frozen=True)
class Facts:
    """What is known of the base model."""

    width: int
    """Of its hidden states."""
    positions: int | None
    """Most tokens that it takes; None: no bound is known."""
    pooling: Literal["Mean", "LastToken"] = "Mean"
    """Where a text's meaning is: in a decoder the last token has seen all others, in an encoder each one has."""


def read_facts(folder: Path, tokenizer: Any, uri: str) -> Facts:
    """Read what is known of a base model.

    Args:
        folder: With its config.
        tokenizer: Of the model.
        uri: Of the model, for messages.

    Raises:
        TrainerError: `INVALID_CONFIG`: transformers does not know the model.
    """
    config = read_config(folder, uri).get_text_config()
    width = next((getattr(config, name) for name in _WIDTHS if hasattr(config, name)), _WIDTH)
    limits = [getattr(config, name, None) for name in _POSITIONS] + [getattr(tokenizer, "model_max_length", None)]
    known = [limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
    pooling: Literal["Mean", "LastToken"] = "Mean" if config.model_type in MASKED_LANGUAGE_MODELS else "LastToken"
    return Facts(width, min(known, default=None), pooling)


def fit_length(spec: PeftJobSpec, facts: Facts) -> PeftJobSpec:
    """Return a spec whose examples, with virtual tokens before them, are no longer than the model takes."""
    if facts.positions is None:
        return spec
    virtual = spec.method.settings.virtual_tokens if spec.method.type in PROMPT_METHODS else 0  # type: ignore[attr-defined]
    limit = max(4, facts.positions - virtual)
    if spec.dataset.max_length <= limit:
        return spec
    shorter = spec.dataset.model_copy(update={"max_length": limit})
    return spec.model_copy(update={"dataset": shorter})


def resolve(spec: PeftJobSpec, facts: Facts, examples: int | None) -> ResolvedSpec:
    """Return the spec with a batch size, a rate, a length of training, what judges it, and a rank for few examples.

    Args:
        spec: Of the job; what it says stays.
        facts: Of its base model.
        examples: In the training data; None: as usual.
    """
    training = spec.training
    examples = _USUAL if examples is None else examples
    is_ranking = spec.task.type == "Ranking"
    usual = max(_batch(examples), _RANKED_BATCH) if is_ranking else _batch(examples)
    batch = training.batch_size or max(usual, training.micro_batch_size or 1)
    rate = training.learning_rate or _rate(spec, facts.width)
    epochs = training.epochs
    if epochs is None and training.max_steps is None:
        epochs = _epochs(examples, batch, _CHOSEN_EPOCHS if spec.dataset.has_validation else _EPOCHS)
    wire = {**training.to_wire(), "batchSize": batch, "learningRate": rate}
    if training.evaluation is None and spec.task.type == "Seq2SeqLM" and spec.dataset.has_validation:
        wire["evaluation"] = _WRITES.to_wire()
    if is_ranking:
        wire.setdefault("microBatchSize", min(_RANKED_AT_ONCE, batch))
    chosen = ResolvedTraining.model_validate(wire if epochs is None else {**wire, "epochs": epochs})
    more = {"training": chosen, "task": _task(spec.task, facts), "method": _method(spec.method, facts, examples)}
    return ResolvedSpec.model_construct(**{**dict(spec), **more})


def told_of(spec: ResolvedSpec, precision: torch.dtype) -> ResolvedInfo:
    """Return what the status says of a spec.

    Args:
        spec: With nothing left open.
        precision: Of the base and the computation, which `Auto` leaves open.
    """
    training = spec.training
    return ResolvedInfo(
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size or min(DEFAULT_MICRO_BATCH, training.batch_size),
        learning_rate=training.learning_rate,
        epochs=training.epochs,
        max_steps=training.max_steps,
        max_length=spec.dataset.max_length,
        precision="BF16" if precision == torch.bfloat16 else "FP32",
        method=spec.method.type,
        rank=getattr(spec.method.settings, "rank", None),
        metric=deciding_metric(spec) if spec.dataset.has_validation else None,
    )


def _task(task: TaskSpec, facts: Facts) -> TaskSpec:
    """Return the task with nothing left open that depends on the model."""
    ranking = task.ranking or RankingTask()
    if task.type != "Ranking" or ranking.pooling != "Auto":
        return task
    return task.model_copy(update={"ranking": ranking.model_copy(update={"pooling": facts.pooling})})


def _method(method: MethodSpec, facts: Facts, examples: int) -> MethodSpec:
    """Return LoRA of a smaller rank for few examples, if nothing is said of it."""
    if method.type != "LoRA" or method.lora is not None or method.init_from is not None or examples > _SCARCE:
        return method
    usual = LoRAMethod()
    rank = 2 ** int(math.log2(max(1.0, facts.width / _WIDTH_PER_RANK)))
    if rank >= usual.rank:
        return method
    scaled = LoRAMethod(rank=rank, alpha=usual.alpha * rank / usual.rank)
    return method.model_copy(update={"lora": scaled})


def _batch(examples: int) -> int:
    if examples <= _FEW:
        return _SMALL_BATCH
    return _BATCH if examples <= _MANY else _LARGE_BATCH


def _rate(spec: PeftJobSpec, width: int) -> float:
    """Return a learning rate, rounded to two digits: smaller for a wider model."""
    rate = _RATE * _RATES[spec.method.type] * (_WIDTH / width) ** _NARROWER
    rate *= _PREFERENCES if spec.task.type == "PreferenceOptimisation" else 1.0
    digits = 1 - math.floor(math.log10(rate))
    return round(rate, digits)


def _epochs(examples: int, batch: int, few: float) -> float:
    """Return three epochs, or as many as make enough steps, or as few as make not too many.

    Args:
        examples: To train on.
        batch: Of a step.
        few: Most epochs for `_FEW_STEPS`.
    """
    per_epoch = math.ceil(examples / batch)
    usual = max(1.0, min(_EPOCHS, _MOST_STEPS / per_epoch), min(few, math.ceil(_FEW_STEPS / per_epoch)))
    return round(min(_MOST_EPOCHS, max(usual, math.ceil(_LEAST_STEPS / per_epoch))), 2)
