"""What the samples share: what a sample is, its files, and the nearest neighbour as a baseline.

A sample's module makes `train`, `validation` and `test` files by a stated rule and seed, and says what a simple
program scores on the test file. `uses` lists them, `run` trains them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Row = dict[str, Any]
SPLITS: Final = ("train", "validation", "test")


@dataclass(frozen=True)
class Sample:
    """One use of the trainer."""

    name: str
    """Of the file in crds/samples."""
    base: str
    """A name in `recipes.RECIPES`, or `all-MiniLM-L6-v2`, which a package ships."""
    metric: str
    """What `score` returns, for people; more is better."""
    write: Callable[[Path], None]
    """Write the three files into a folder that is there."""
    questions: Callable[[Path], list[Any]]
    """Of the test file: what a model is given, in its order."""
    answers: Callable[[Path], list[Any]]
    """Of the test file: what is right."""
    baselines: Callable[[Path], dict[str, list[Any]]]
    """By name: what simple programs, which learned from the training file, answer."""
    score: Callable[[Sequence[Any], Sequence[Any]], float]
    """Return the metric of what was answered and what is right."""

    def best_baseline(self, folder: Path) -> tuple[str, float]:
        """Return the baseline with the highest score, and that."""
        truth = self.answers(folder)
        scores = {name: self.score(found, truth) for name, found in self.baselines(folder).items()}
        best = max(scores, key=lambda name: scores[name])
        return best, scores[best]


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    """Write an object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path: Path) -> list[Row]:
    """Read what `write_jsonl` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def column(split: str, name: str, ending: str = "jsonl") -> Callable[[Path], list[Any]]:
    """Return what reads a column of a split's file in a folder."""
    return lambda folder: [row[name] for row in read_jsonl(folder / f"{split}.{ending}")]


def exact(answered: Sequence[Any], right: Sequence[Any]) -> float:
    """Return the share of answers that are right to the letter, but for space around them."""
    pairs = list(zip(answered, right, strict=True))
    return float(sum(a.strip() == b.strip() for a, b in pairs)) / len(pairs)


def chrf(answered: Sequence[str], right: Sequence[str]) -> float:
    """Return chrF (Popović 2015), 0 to 100."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score([a.strip() for a in answered], [[b.strip() for b in right]]).score)


def nearest(known: Sequence[str], answers: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Return for each question the answer to the known question most like it, by TF-IDF of character 2- to 4-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    table = vectors.fit_transform(known)
    closeness = vectors.transform(asked) @ table.T
    return [answers[int(i)] for i in closeness.argmax(axis=1).A1]
