"""Sentiment of single words: the data of the demo, from the VADER lexicon, with a part held out for validation.

No word is in two files. Forms of one word may be (the lexicon lists each by itself), which the baseline on character
n-grams profits from as the adapter does.
"""

import csv
from collections import Counter
from pathlib import Path

from demo import sentiment_data

from .kit import Sample, exact

VALIDATION_ROWS = 64


def write(folder: Path) -> None:
    """Write train.csv, validation.csv and test.csv with `text` and `label`."""
    train, _ = sentiment_data.write_splits(folder)
    header, *rows = train.read_text(encoding="utf-8").splitlines(keepends=True)
    train.write_text("".join([header, *rows[VALIDATION_ROWS:]]), encoding="utf-8")
    (folder / "validation.csv").write_text("".join([header, *rows[:VALIDATION_ROWS]]), encoding="utf-8")


def read(folder: Path, split: str, column: str) -> list[str]:
    """Return a column of a split."""
    with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        return [row[column] for row in csv.DictReader(file)]


def baselines(folder: Path) -> dict[str, list[str]]:
    """Return always the most frequent label, and what a logistic regression on character n-grams says."""
    texts, labels, asked = read(folder, "train", "text"), read(folder, "train", "label"), read(folder, "test", "text")
    most = Counter(labels).most_common(1)[0][0]
    return {
        "most frequent label": [most] * len(asked),
        "logistic regression on n-grams": sentiment_data.with_ngrams(texts, labels, asked),
    }


SAMPLE = Sample(
    name="sentiment",
    base="all-MiniLM-L6-v2",
    metric="accuracy",
    write=write,
    questions=lambda folder: read(folder, "test", "text"),
    answers=lambda folder: read(folder, "test", "label"),
    baselines=baselines,
    score=exact,
)
