"""Every method of adaptation, and the training runs by which `test_methods` looks at it: a row for each.

All runs of `write` are done by one pair of ranks, and answered by one process with plain transformers and peft. Of the
pairs of a method and a task other than CausalLM some are run each time; with PEFTJOB_ALL_PAIRS=1 in the environment,
all of them are (`make test-pairs`).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
from peftjob_api.pairs import METHODS, supported

STEPS = 30
COMPARED_STEPS = 20
"""Of them; HF Trainer stops there."""
FALLEN = 0.95
"""What is left of the loss in the last epoch, at most."""
EXAMPLES, BATCH = 32, 16
EPOCH = EXAMPLES // BATCH
SPREAD = 0.1
"""Of the base's weights: what is in the middle of it must matter."""
PRECISIONS = ("FP32", "BF16")


@dataclass(frozen=True)
class Row:
    """A method with settings."""

    name: str
    method: dict[str, Any]
    """`spec.method`."""
    rate: float = 1e-2
    """Learning rate at its peak: by it the loss falls visibly, and not so fast that rounding is all that differs."""
    training: dict[str, Any] = field(default_factory=dict)
    """Other settings of `spec.training`."""
    file_ratio: float = 1.0
    """Numbers in the adapter's file for each one that is trained, at most."""
    compared: bool = True
    """Whether HF Trainer can train it as well, on the whole base."""
    base: str = "llama"
    """Of the task CausalLM."""


def _lora(**settings: Any) -> dict[str, Any]:
    return {"type": "LoRA", "lora": {"rank": 4, "alpha": 8, **settings}}


LOW_RANK_ROWS = (
    Row("LoRA", _lora()),
    Row(
        "rsLoRA, LoRA+ and patterns",
        _lora(
            rsLoRA=True, learningRateRatio=2, rankPattern={"q_proj": 2, "mlp.up_proj": 6}, alphaPattern={"q_proj": 4}
        ),
        rate=3e-3,
    ),
    Row("DoRA", _lora(dora=True)),
    Row("PiSSA", _lora(initialisation="PiSSA"), file_ratio=2.0),
    Row("OLoRA", _lora(initialisation="OLoRA", rankPattern={"v_proj": 2}), file_ratio=2.0),
    Row(
        "AdaLoRA",
        {"type": "AdaLoRA", "adalora": {"rank": 2, "initialRank": 4, "allocateEverySteps": 3, "orthogonality": 0.05}},
    ),
    Row("VeRA", {"type": "VeRA", "vera": {"rank": 16}}, rate=5e-2),
    Row("LoHa", {"type": "LoHa", "loha": {"rank": 4}}),
    Row("LoKr", {"type": "LoKr", "lokr": {"rank": 2}}),
    Row("OFT", {"type": "OFT", "oft": {"blockSize": 8}}),
    Row("IA3", {"type": "IA3"}, rate=5e-2),
)
PROMPT_ROWS = (
    Row("Prompt tuning", {"type": "PromptTuning", "promptTuning": {"virtualTokens": 16}}, rate=0.2),
    Row(
        "Prompt tuning from text",
        {"type": "PromptTuning", "promptTuning": {"virtualTokens": 16, "init": "Text", "initText": "red houses"}},
        rate=0.2,
    ),
    Row("P-tuning", {"type": "PTuning", "pTuning": {"virtualTokens": 16}}, rate=0.03),
    Row("Prefix tuning", {"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 8}}, rate=0.3),
    Row(
        "Prefix tuning with a network",
        {"type": "PrefixTuning", "prefixTuning": {"virtualTokens": 8, "projection": True, "projectionSize": 8}},
        rate=0.03,
    ),
)
LAYER_ROWS = (
    Row(
        "Houlsby adapters",
        {"type": "Bottleneck", "bottleneck": {"style": "Houlsby", "reductionFactor": 4, "nonlinearity": "Tanh"}},
    ),
    Row("Pfeiffer adapters", {"type": "Bottleneck", "bottleneck": {"reductionFactor": 4}}),
    Row("parallel adapters", {"type": "Bottleneck", "bottleneck": {"style": "Parallel", "reductionFactor": 4}}),
    Row("LayerNorm tuning", {"type": "LayerNormTuning"}, rate=0.1),
    Row("BitFit", {"type": "BitFit"}, rate=0.1, base="gpt2"),
    Row(
        "trainable tokens",
        {"type": "TrainableTokens", "trainableTokens": {"tokens": ["r", "e", "h", "<new>"]}},
        rate=0.1,
        file_ratio=2.0,  # peft writes them for the tied head again
        base="tied",
    ),
    Row(
        "LoRA and modules whole",
        {"type": "LoRA", "lora": {"rank": 4}, "modulesToSave": ["norm", "lm_head"]},
    ),
    Row(
        "adapters and modules whole",
        {"type": "Bottleneck", "bottleneck": {"reductionFactor": 4}, "modulesToSave": ["norm", "embed_tokens"]},
    ),
)

ROWS = (*LOW_RANK_ROWS, *PROMPT_ROWS, *LAYER_ROWS)


TASKS = {
    "CausalLM": ("llama", "completions"),
    "Seq2SeqLM": ("t5", "translations"),
    "SequenceClassification": ("bert", "classes"),
    "TokenClassification": ("bert", "tags"),
    "ImageClassification": ("vit", "images"),
    "PreferenceOptimisation": ("llama", "preferences"),
    "Ranking": ("bert", "matches"),
}
"""Task -> its base model, and its data."""
OTHER_BASES = {("BitFit", "Seq2SeqLM"): "bart"}
"""(method, task) -> its base model, where that of the task has nothing for the method."""
OF_METHOD = {row.method["type"]: row for row in reversed(ROWS)}
"""Method -> the first of its rows, by which it is looked at with other tasks."""


def pairs(*, every: bool) -> list[tuple[str, str, str]]:
    """Return (method, task, precision) of runs with other tasks: each method with one task, and LoRA with each."""
    others = [task for task in TASKS if task != "CausalLM"]
    found = [(m, t, p) for m, t in supported() if t in others for p in PRECISIONS]
    if every:
        return found
    of_method = {m: [t for t in others if (m, t) in supported()] for m in METHODS}
    return [
        (method, task, precision)
        for method, task, precision in found
        if PRECISIONS.index(precision) == METHODS.index(method) % 2
        and (method == "LoRA" or of_method[method][METHODS.index(method) % len(of_method[method])] == task)
    ]


PAIRS = pairs(every=os.environ.get("PEFTJOB_ALL_PAIRS") == "1")


def run_name(row: Row, precision: str, task: str = "CausalLM") -> str:
    """Return the name of a run."""
    return f"{row.name} {task} {precision}"


def write(folder: Path, examples: int = EXAMPLES) -> dict[str, dict[str, Any]]:
    """Write models and data into a folder; return name of a run -> PeftJob."""
    tiny.write_llama(folder / "llama", layers=1, spread=SPREAD)
    tiny.write_llama(folder / "tied", layers=1, tied=True, spread=SPREAD)
    tiny.write_gpt2(folder / "gpt2")
    tiny.write_bert(folder / "bert", layers=1, spread=SPREAD)
    tiny.write_completions(folder / "completions.jsonl", examples)
    tiny.write_completions(folder / "unseen-completions.jsonl", 9, seed=8)
    tiny.write_classified(folder / "classes.jsonl", examples)
    tiny.write_classified(folder / "unseen-classes.jsonl", 9, seed=5)
    tiny.write_t5(folder / "t5")
    tiny.write_bart(folder / "bart")
    tiny.write_translations(folder / "translations.jsonl", examples)
    tiny.write_translations(folder / "unseen-translations.jsonl", 9)
    tiny.write_tagged(folder / "tags.jsonl", examples)
    tiny.write_tagged(folder / "unseen-tags.jsonl", 9, seed=8)
    tiny.write_vit(folder / "vit", spread=SPREAD)
    tiny.write_pictures(folder / "images.jsonl", examples)
    tiny.write_pictures(folder / "unseen-images.jsonl", 9, seed=5)
    tiny.write_preferences(folder / "preferences.jsonl", examples)
    tiny.write_preferences(folder / "unseen-preferences.jsonl", 9, seed=10)
    tiny.write_matches(folder / "matches.jsonl", examples)
    tiny.write_matches(folder / "unseen-matches.jsonl", 9, seed=12)
    runs = [(row, precision, "CausalLM") for row in ROWS for precision in PRECISIONS]
    runs += [(OF_METHOD[method], precision, task) for method, task, precision in PAIRS]
    return {run_name(*run): job(folder, *run) for run in runs}


def job(folder: Path, row: Row, precision: str, task: str) -> dict[str, Any]:
    """Return a PeftJob; in fp32 it takes two micro steps a rank, of samples of unequal length."""
    model, data = TASKS[task]
    model = row.base if task == "CausalLM" else OTHER_BASES.get((row.method["type"], task), model)
    training = {
        "precision": precision,
        "maxSteps": STEPS,
        "batchSize": BATCH,
        "microBatchSize": BATCH // 4 if precision == "FP32" else BATCH // 2,
        "learningRate": row.rate,
        "evaluation": {"everySteps": STEPS, "metric": "Loss"},
        **row.training,
    }
    validation = {"validation": f"file://{folder}/unseen-{data}.jsonl"}
    return tiny.job(
        folder, model=model, kind=task, train=f"{data}.jsonl", method=row.method, training=training, dataset=validation
    )
