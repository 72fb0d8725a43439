"""Pretrains the small bases of `recipes`, once: `python -m samples.bases [--quick] [NAME ...]`.

A base is a folder in the Hugging Face layout (config, safetensors, tokenizer or image processor) in
.cache/samples/bases, named by a hash of its recipe and the versions of the packages that it learns from.
"""

import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from . import pretrain_decoder, pretrain_translator, pretrain_vision
from .recipes import RECIPES, Recipe, quick

CACHE = Path(__file__).resolve().parents[2] / ".cache/samples/bases"

Batches = Iterator[dict[str, torch.Tensor]]
Prepared = tuple[Any, Batches]
"""A new model, and batches without end that it can be called with for a loss."""

PREPARE: dict[str, Callable[[Recipe, Path], Prepared]] = {
    "decoder": pretrain_decoder.prepare,
    "encoder-decoder": pretrain_translator.prepare,
    "vision": pretrain_vision.prepare,
}
"""By the kind of a recipe; each writes the tokenizer, or what else stands beside the weights, into the folder."""


def base_folder(name: str, *, is_quick: bool = False, cache: Path = CACHE) -> Path:
    """Return the folder of a base, made now if it is not there."""
    recipe = quick(RECIPES[name]) if is_quick else RECIPES[name]
    folder = cache / f"{name}-{digest(recipe)}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=cache))
        try:
            pretrain(recipe, made)
            os.chmod(made, 0o755)  # a folder of mkdtemp is its owner's alone
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def digest(recipe: Recipe) -> str:
    """Return what names a base: 16 hexadecimal digits of its recipe and its packages' versions."""
    versions = {package: importlib.metadata.version(package) for package in recipe.packages}
    return hashlib.sha256(json.dumps([asdict(recipe), versions], sort_keys=True).encode()).hexdigest()[:16]


def pretrain(recipe: Recipe, folder: Path) -> float:
    """Train a new model and save it; return the mean loss of the last tenth of the steps."""
    torch.manual_seed(recipe.seed)
    model, batches = PREPARE[recipe.kind](recipe, folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    losses: list[float] = []
    started = time.monotonic()
    for step, batch in zip(range(recipe.steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate(step, recipe.steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            print(
                f"  step {step + 1}/{recipe.steps}  loss {_mean(losses[-50:]):.3f}  {time.monotonic() - started:.0f} s"
            )
    model.eval()
    model.save_pretrained(folder)
    return _mean(losses[-max(1, recipe.steps // 10) :])


def rate(step: int, steps: int) -> float:
    """Return the share of the highest learning rate at a step, counted from 0."""
    rise = math.ceil(steps / 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Make the bases that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*RECIPES, []], help=", ".join(RECIPES))
    parser.add_argument("--quick", action="store_true", help="at a size for tests")
    args = parser.parse_args()
    for name in args.names or RECIPES:
        started = time.monotonic()
        print(name, flush=True)
        folder = base_folder(name, is_quick=args.quick)
        print(f"{folder}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
