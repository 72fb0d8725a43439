"""Small greyscale images and few labels, as a stand-in for medical images: scikit-learn's handwritten digits.

No medical images come inside a Python package. What the digits have in common with them is the task: one object to a
small grey picture, few that anybody labelled, and a base that was pretrained on other pictures (here rendered letters).
64 labelled images to train on, as a team with little data has them. The package does not say who wrote which digit, so
one person's may be in two files; no image is.
"""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np

from .kit import SPLITS, Sample, exact

SEED = 15
ROWS = {"train": 64, "validation": 64, "test": 1000}
SIZE = 32
"""Pixels of a side; the package's images have 8."""


def png(pixels: Any) -> bytes:
    """Return a picture of (8, 8) brightnesses from 0 to 16 as PNG, enlarged."""
    from PIL import Image

    grey = Image.fromarray((np.asarray(pixels) * 255 / 16).round().astype(np.uint8))
    data = io.BytesIO()
    grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(data, "PNG")
    return data.getvalue()


def pixels(data: bytes) -> Any:
    """Return the brightnesses of a PNG, float64 (SIZE * SIZE), from 0 to 1."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), dtype=np.float64).ravel() / 255


def write(folder: Path) -> None:
    """Write train.parquet, validation.parquet and test.parquet with `image` (PNG) and `label` (a digit's name)."""
    import pyarrow
    import pyarrow.parquet
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = list(range(len(digits.images)))
    random.Random(SEED).shuffle(order)
    begin = 0
    for split in SPLITS:
        chosen = order[begin : begin + ROWS[split]]
        begin += ROWS[split]
        columns = {
            "image": [png(digits.images[i]) for i in chosen],
            "label": [str(digits.target[i]) for i in chosen],
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")


def read(folder: Path, split: str) -> dict[str, list[Any]]:
    """Return the columns of a split."""
    import pyarrow.parquet

    table: dict[str, list[Any]] = pyarrow.parquet.read_table(folder / f"{split}.parquet").to_pydict()
    return table


def baselines(folder: Path) -> dict[str, list[str]]:
    """Return what a logistic regression on the pixels says, which learned from the same labels."""
    from sklearn.linear_model import LogisticRegression

    train, test = read(folder, "train"), read(folder, "test")
    model = LogisticRegression(max_iter=1000).fit([pixels(image) for image in train["image"]], train["label"])
    return {"logistic regression": [str(label) for label in model.predict([pixels(i) for i in test["image"]])]}


SAMPLE = Sample(
    name="imaging",
    base="tiny-vision",
    metric="accuracy",
    write=write,
    questions=lambda folder: read(folder, "test")["image"],
    answers=lambda folder: read(folder, "test")["label"],
    baselines=baselines,
    score=exact,
)
