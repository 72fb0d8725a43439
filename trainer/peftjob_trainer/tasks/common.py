"""What the tasks share."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from peftjob_api import Reason

from ..data import Example
from ..exits import TrainerError


def pad_rows(examples: Sequence[Example], pad: int) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask`, int64 (rows, longest), padded on the right."""
    longest = max(len(example.input_ids) for example in examples)
    gaps = [longest - len(example.input_ids) for example in examples]
    return {
        "input_ids": torch.tensor([[*e.input_ids, *[pad] * gap] for e, gap in zip(examples, gaps, strict=True)]),
        "attention_mask": torch.tensor([[1] * (longest - gap) + [0] * gap for gap in gaps]),
    }


def check_loaded(folder: Path, missing: Iterable[str], new: Sequence[str]) -> None:
    """Raise when weights of the base are missing: it would stay random, and nobody could load the adapter again.

    Args:
        folder: Of the base model.
        missing: Names of parameters that the files do not hold.
        new: Names of modules that are new and trained.

    Raises:
        TrainerError: `BASE_MODEL_CORRUPT`.
    """
    lost = sorted(key for key in missing if key.split(".")[0] not in new)
    if lost:
        raise TrainerError(
            Reason.BASE_MODEL_CORRUPT,
            f"{folder}: the weights lack {', '.join(lost[:5])}{' ...' if len(lost) > 5 else ''}, which would stay "
            f"random: use a base model whose files are complete for this task",
        )
