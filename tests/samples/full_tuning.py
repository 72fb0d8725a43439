"""Full fine-tuning of a classifier in plain PyTorch: what `few_labels` holds an adapter against.

What is the same for both: base, files, batch, epochs, schedule, clipping, crops of images, and that the epoch is kept
that is best on the validation file, of equals that of less loss. Nothing of PeftJob's loop is used.
"""

import copy
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Inputs = Callable[[Sequence[Any], bool], dict[str, torch.Tensor]]
"""Of texts or image files, and whether they are trained on: what a model is called with."""
Split = tuple[list[Any], list[str]]
"""Texts or image files, and their labels."""

CROP = 0.7
"""Least share of an image's area, of PeftJob's default augmentation, too."""
WARM_UP = 0.03
"""Share of the steps."""
MEASURED = 100
"""Rows at once."""


@dataclass(frozen=True)
class Tuned:
    """What a run came to."""

    validation: float
    """Accuracy of the best epoch."""
    test: float
    """Accuracy of the same epoch."""
    state: int
    """Bytes of the trained state: parameters, gradients, moments."""


def texts(base: Path) -> Inputs:
    """Return what tokenizes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    return lambda rows, _: dict(tokenizer(list(rows), padding=True, truncation=True, return_tensors="pt"))


def images(base: Path) -> Inputs:
    """Return what decodes image files, crops those that are trained on, and processes them."""
    from PIL import Image
    from torchvision.transforms.v2 import RandomResizedCrop
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(base)

    def inputs(files: Sequence[Any], is_training: bool) -> dict[str, torch.Tensor]:
        opened = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        crops = [RandomResizedCrop(image.height, scale=(CROP, 1.0)) for image in opened]
        seen = [crop(image) if is_training else image for crop, image in zip(crops, opened, strict=True)]
        return dict(processor(seen, return_tensors="pt"))

    return inputs


def tune(
    model: Any, inputs: Inputs, names: list[str], splits: dict[str, Split], *, rate: float, batch: int, epochs: int
) -> Tuned:
    """Train all parameters of a model by AdamW.

    Args:
        model: With a new classifier of as many outputs as `names`.
        inputs: What makes tensors of rows.
        names: The labels, in the order of the outputs.
        splits: `train`, `validation` and `test`.
        rate: Of learning, at its peak.
        batch: Rows of a step.
        epochs: How many.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    rows, labels = splits["train"]
    total = epochs * math.ceil(len(rows) / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _factor(done, total))
    best, kept = (-1.0, 0.0), model.state_dict()
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(rows)).tolist()
        for begin in range(0, len(order), batch):
            chosen = order[begin : begin + batch]
            targets = torch.tensor([names.index(labels[i]) for i in chosen])
            step(model, inputs([rows[i] for i in chosen], True), targets, optimizer)
            schedule.step()
        right, loss = judged(model, inputs, names, splits["validation"])
        if (right, -loss) > best:
            best, kept = (right, -loss), copy.deepcopy(model.state_dict())
    state = state_bytes(optimizer)
    model.load_state_dict(kept)
    return Tuned(best[0], judged(model, inputs, names, splits["test"])[0], state)


def step(model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take a step; its gradients stay, so that `state_bytes` can count them."""
    optimizer.zero_grad()
    loss: Any = torch.nn.functional.cross_entropy(model(**inputs).logits, labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the parameters that a step has trained, of their gradients, and of their moments."""
    total = 0
    for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        moments = [value for value in optimizer.state[parameter].values() if value.shape == parameter.shape]
        total += sum(tensor.nbytes for tensor in (parameter.detach(), parameter.grad, *moments))
    return total


def judged(model: Any, inputs: Inputs, names: Sequence[str], split: Split) -> tuple[float, float]:
    """Return the share of rows whose likeliest label is right, and the mean loss."""
    model.eval()
    rows, labels = split
    with torch.no_grad():
        batches = [inputs(rows[begin : begin + MEASURED], False) for begin in range(0, len(rows), MEASURED)]
        logits = torch.cat([model(**batch).logits for batch in batches])
    targets = torch.tensor([names.index(label) for label in labels])
    right = (logits.argmax(-1) == targets).float().mean()
    return right.item(), torch.nn.functional.cross_entropy(logits, targets).item()


def _factor(done: int, total: int) -> float:
    """Return the share of the highest rate after so many steps: up over `WARM_UP`, then down to zero on a line."""
    rise = math.ceil(WARM_UP * total)
    return done / rise if done < rise else (total - done) / max(1, total - rise)
