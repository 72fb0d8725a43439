"""Data of known lengths, and the PeftJobs that train on it. Used by the parts that train."""

import json
import random
from pathlib import Path
from typing import Any

WORDS = ("red", "green", "a", "houses", "on", "winter", "salt", "quietly")
MEDIAN_TOKENS, SPREAD = 60, 0.9
"""Of mixed lengths: logarithms are normal, as lengths of instructions and answers roughly are."""


def text(chance: random.Random, length: int) -> str:
    """Return a text of so many characters, each of which the tokenizer of bytes makes a token."""
    words = ""
    while len(words) < length:
        words += chance.choice(WORDS) + " "
    return words[:length]


def write_dense(path: Path, rows: int, tokens: int) -> None:
    """Write rows of exactly so many tokens, the one that ends a text among them."""
    chance = random.Random(1)
    _write(path, [text(chance, tokens - 1) for _ in range(rows)])


def write_mixed(path: Path, rows: int, longest: int) -> None:
    """Write rows of unequal lengths: most are short, a few reach the longest."""
    chance = random.Random(2)
    lengths = [min(longest - 1, max(8, round(chance.lognormvariate(0, SPREAD) * MEDIAN_TOKENS))) for _ in range(rows)]
    _write(path, [text(chance, length) for length in lengths])


def _write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in texts))


def job(
    model: str,
    train: Path,
    output: Path,
    *,
    sharding: str,
    nodes: int = 1,
    ranks: int = 2,
    rank: int = 16,
    accelerator: bool = False,
    storage: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    **training: Any,
) -> dict[str, Any]:
    """Return a PeftJob that trains LoRA, in fp32 unless `training` says otherwise.

    Args:
        model: Its uri.
        train: The data.
        output: Where the adapter goes; a folder that no other job has.
        sharding: `spec.sharding`.
        nodes: `spec.workers.nodes`.
        ranks: Of each node.
        rank: Of LoRA.
        accelerator: Whether each rank has one, instead of training on the CPU.
        storage: `spec.storage`.
        dataset: Changes to `spec.dataset`.
        training: Changes to `spec.training`.
    """
    spec = {
        "baseModel": {"uri": model},
        "method": {"type": "LoRA", "lora": {"rank": rank, "alpha": 2 * rank}},
        "dataset": {"train": f"file://{train}", "maxLength": 256, **(dataset or {})},
        "training": {"precision": "FP32", "learningRate": 1e-3, "logEverySteps": 100000, **training},
        "workers": {"nodes": nodes, "gpusPerNode" if accelerator else "processesPerNode": ranks},
        "sharding": sharding,
        "output": {"uri": f"file://{output}"},
        **({"storage": storage} if storage else {}),
    }
    return {"apiVersion": "peftjob.io/v1alpha1", "kind": "PeftJob", "metadata": {"name": "bench"}, "spec": spec}
