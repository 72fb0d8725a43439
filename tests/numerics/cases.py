"""The training runs that the numerics tests look at; each is done once on one rank and once on two."""

from pathlib import Path
from typing import Any

import tiny

COMPARED = (
    "completions, at once",
    "completions, accumulated",
    "classes, at once",
    "classes, accumulated",
    "any labels",
    "numbers",
    "tags",
    "translations",
    "images",
)
"""Runs that one rank, two ranks and HF Trainer must agree on."""
UNEQUAL = "translations, written"
"""What this model writes ends early, here and there."""
WRITTEN = ("answers", UNEQUAL)
"""Runs in which the model writes; of two ranks, one has nothing to write in the last batch."""
PREFERRED = "preferences"
"""One rank, two ranks and plain PyTorch must agree on it."""
MATCHED = ("matches, mean", "matches, last token")
"""One rank, two ranks and plain PyTorch must agree on them."""
BLOCKS = 12
STEPS = 10
"""Of the runs of each shard group; each is one micro step of four ranks, and four of one rank."""


def write(folder: Path) -> dict[str, dict[str, Any]]:
    """Write models and data into a folder; return name -> PeftJob."""
    tiny.write_llama(folder / "llama")
    tiny.write_llama(folder / "deep", layers=BLOCKS)
    tiny.write_bert(folder / "bert")
    tiny.write_completions(folder / "completions-45.jsonl", 45)  # last batch of an epoch: 13 of 16
    tiny.write_completions(folder / "completions-33.jsonl", 33)  # last batch: a single example, so one rank has none
    tiny.write_classified(folder / "classes-45.jsonl", 45)
    tiny.write_classified(folder / "classes-33.jsonl", 33)
    tiny.write_classified(folder / "validation.jsonl", 21, seed=5)
    tiny.write_t5(folder / "t5")
    tiny.write_t5(folder / "writer", spread=3.0)
    tiny.write_translations(folder / "translations-33.jsonl", 33)
    for rows in (33, 1):
        tiny.write_labelled(folder / f"labelled-{rows}.jsonl", rows)
        tiny.write_tagged(folder / f"tags-{rows}.jsonl", rows)
    tiny.write_vit(folder / "vit", spread=0.1)
    tiny.write_pictures(folder / "images-33.jsonl", 33)
    tiny.write_preferences(folder / "preferences-33.jsonl", 33)
    tiny.write_preferences(folder / "preferences-9.jsonl", 9, seed=10)
    tiny.write_matches(folder / "matches-37.jsonl", 37)
    tiny.write_matches(folder / "matches-9.jsonl", 9, seed=12)
    tiny.write_adapter(folder / "before", folder / "bert")
    clm: dict[str, Any] = {"model": "llama", "kind": "CausalLM"}
    cls: dict[str, Any] = {"model": "bert", "kind": "SequenceClassification"}
    validation = {"validation": f"file://{folder}/validation.jsonl"}

    def job(task: dict[str, Any], train: str, **spec: Any) -> dict[str, Any]:
        return tiny.job(folder, **task, train=train, **spec)

    whole, parts = {"microBatchSize": 16}, {"microBatchSize": 4}
    dropout = {"type": "LoRA", "lora": {"rank": 4, "dropout": 0.3}}
    return {
        "completions, at once": job(clm, "completions-45.jsonl", training=whole),
        "completions, accumulated": job(clm, "completions-33.jsonl", training=parts),
        "classes, at once": job(cls, "classes-45.jsonl", training=whole),
        "classes, accumulated": job(cls, "classes-33.jsonl", training=parts),
        "any labels": _classified(folder, "MultiLabel", "labels"),
        "numbers": _classified(folder, "Regression", "number"),
        "tags": job(
            {"model": "bert", "kind": "TokenClassification"},
            "tags-33.jsonl",
            training=parts,
            dataset={"validation": f"file://{folder}/tags-1.jsonl"},
        ),
        "translations": job({"model": "t5", "kind": "Seq2SeqLM"}, "translations-33.jsonl", training=parts),
        "images": job({"model": "vit", "kind": "ImageClassification"}, "images-33.jsonl", training=parts),
        "varied images": _varied(folder, "FP32"),
        "varied images, bf16": _varied(folder, "BF16"),
        "checkpointed translations": job(
            {"model": "t5", "kind": "Seq2SeqLM"},
            "translations-33.jsonl",
            training={**parts, "gradientCheckpointing": True},
        ),
        "answers": job(
            clm,
            "completions-45.jsonl",
            training={**parts, "evaluation": {"everySteps": 5, "generate": {"maxNewTokens": 6, "maxSamples": 9}}},
            dataset={"validation": f"file://{folder}/completions-33.jsonl", "maxLength": 128},  # no prompt is cut
        ),
        UNEQUAL: job(
            {"model": "writer", "kind": "Seq2SeqLM"},
            "translations-33.jsonl",
            training={**parts, "evaluation": {"metric": "ChrF", "generate": {"maxNewTokens": 12, "maxSamples": 9}}},
            dataset={"validation": f"file://{folder}/translations-33.jsonl"},
        ),
        PREFERRED: _preferred(folder, {"type": "LoRA", "lora": {"rank": 4, "alpha": 8}}),
        f"{PREFERRED}, dropout": _preferred(folder, dropout),
        f"{PREFERRED}, PiSSA": _preferred(
            folder,
            {"type": "LoRA", "modulesToSave": ["lm_head"], "lora": {"rank": 4, "initialisation": "PiSSA"}},
            maxSteps=3,
        ),
        **{name: _matched(folder, model) for name, model in zip(MATCHED, ("bert", "llama"), strict=True)},
        "packed": job(clm, "completions-45.jsonl", training=parts, dataset={"packing": True}),
        "checkpointed": job(clm, "completions-45.jsonl", training={**whole, "gradientCheckpointing": True}),
        "checkpointed classes": job(cls, "classes-45.jsonl", training={**whole, "gradientCheckpointing": True}),
        "dropout": job(clm, "completions-45.jsonl", training={"maxSteps": 3}, method=dropout),
        "dropout again": job(clm, "completions-45.jsonl", training={"maxSteps": 3}, method=dropout),
        "bf16": job(cls, "classes-45.jsonl", training={"precision": "BF16", "maxSteps": 60, "learningRate": 5e-3}),
        "early stopping": job(
            cls,
            "classes-45.jsonl",
            # Far too high a rate after a good start: the best evaluation is not the last one.
            training={
                "learningRate": 0.05,
                "maxSteps": 60,
                "schedule": "Constant",
                "warmupRatio": 0.2,
                "evaluation": {"everySteps": 3, "metric": "Loss"},
                "earlyStopping": {"patience": 3},
            },
            dataset=validation,
        ),
        "deep": job({**clm, "model": "deep"}, "completions-45.jsonl", training={"maxSteps": 4}),
        "deep, everything kept": job({**clm, "model": "deep"}, "completions-45.jsonl", training={"maxSteps": 4}),
        "deep, Replicate": job(
            {**clm, "model": "deep"}, "completions-45.jsonl", training={"maxSteps": 4}, sharding="Replicate"
        ),
        "grouped": _grouped(folder),
        "continued": job(
            cls, "classes-45.jsonl", training={"maxSteps": 2, "schedule": "Constant"},
            method={"type": "LoRA", "initFrom": f"file://{folder}/before", "lora": {"rank": 4, "alpha": 8}},
        ),
    }  # fmt: skip


def _varied(folder: Path, precision: str) -> dict[str, Any]:
    """Return a job whose images are cut and mirrored anew in each epoch, and judged as they are."""
    augmentation = {"minCropArea": 0.5, "horizontalFlip": True}
    return tiny.job(
        folder,
        model="vit",
        kind="ImageClassification",
        train="images-33.jsonl",
        task={"type": "ImageClassification", "imageClassification": {"augmentation": augmentation}},
        training={"precision": precision, "microBatchSize": 4, "gradientCheckpointing": True, "learningRate": 5e-3},
        dataset={"validation": f"file://{folder}/images-33.jsonl"},
    )


def _classified(folder: Path, problem: str, column: str) -> dict[str, Any]:
    """Return a job whose evaluation of one row leaves the second of two ranks none."""
    return tiny.job(
        folder,
        model="bert",
        kind="SequenceClassification",
        train="labelled-33.jsonl",
        task={"type": "SequenceClassification", "sequenceClassification": {"problem": problem}},
        training={"microBatchSize": 4},
        dataset={"columns": {"label": column}, "validation": f"file://{folder}/labelled-1.jsonl"},
    )


def _preferred(folder: Path, method: dict[str, Any], **training: Any) -> dict[str, Any]:
    """Return a job whose steps, and whose evaluation, leave the second of two ranks none in their last micro batch."""
    return tiny.job(
        folder,
        model="llama",
        kind="PreferenceOptimisation",
        train="preferences-33.jsonl",
        task={"type": "PreferenceOptimisation", "preferenceOptimisation": {"beta": 0.5, "labelSmoothing": 0.1}},
        method=method,
        training={"microBatchSize": 4, "learningRate": 3e-3, **training},
        dataset={"validation": f"file://{folder}/preferences-9.jsonl"},
    )


def _matched(folder: Path, model: str) -> dict[str, Any]:
    """Return a job of whose epochs the last step leaves the second of two ranks no group."""
    return tiny.job(
        folder,
        model=model,
        kind="Ranking",
        train="matches-37.jsonl",
        task={"type": "Ranking", "ranking": {"temperature": 0.2}},
        training={"microBatchSize": 6, "learningRate": 3e-3},
        dataset={"validation": f"file://{folder}/matches-9.jsonl"},
    )


GROUPS = ("Replicate", "Node", "Full")


def grouped(folder: Path) -> dict[str, dict[str, Any]]:
    """Return shard group -> PeftJob for two nodes of two ranks."""
    workers = {"nodes": 2, "processesPerNode": 2}
    return {kind: _grouped(folder, sharding=kind, workers=workers) for kind in GROUPS}


def _grouped(folder: Path, **spec: Any) -> dict[str, Any]:
    training = {"maxSteps": STEPS, "microBatchSize": 4, "gradientCheckpointing": True}
    return tiny.job(folder, model="deep", kind="CausalLM", train="completions-45.jsonl", training=training, **spec)
