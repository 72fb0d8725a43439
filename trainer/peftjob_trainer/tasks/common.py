"""What the tasks share."""

from collections.abc import Sequence

import torch

from ..data import Example


def pad_rows(examples: Sequence[Example], pad: int) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask`, int64 (rows, longest), padded on the right."""
    longest = max(len(example.input_ids) for example in examples)
    gaps = [longest - len(example.input_ids) for example in examples]
    return {
        "input_ids": torch.tensor([[*e.input_ids, *[pad] * gap] for e, gap in zip(examples, gaps, strict=True)]),
        "attention_mask": torch.tensor([[1] * (longest - gap) + [0] * gap for gap in gaps]),
    }
