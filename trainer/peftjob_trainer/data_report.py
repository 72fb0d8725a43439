"""What the data is like once it is read: how many examples, how long, with which labels, and some of them as the model
sees them.

Made by rank 0 before training; told in its log, in `status.data`, `metrics.json` and `report.html`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from peftjob_api import DataInfo
from peftjob_api.worker import REASON_MAX_LENGTH, REASONS_MAX_ITEMS

from .data import Split, Splits
from .tasks import Task
from .tasks.shown import Shown

QUANTILES: Final = (5, 50, 95)
"""Of the lengths, in percent."""
_BARS: Final = 20
_LOGGED: Final = 300
"""Characters of a sample in the log."""
_LABELS_LOGGED: Final = 20


@dataclass(frozen=True)
class SplitReport:
    """What one split is like."""

    name: str
    """`train`, `validation` or `test`."""
    examples: int
    shortest: int
    """In tokens, as all lengths (of an image, in patches)."""
    longest: int
    mean: float
    quantiles: dict[int, int]
    """Percent -> length that so many examples do not exceed."""
    edges: list[int]
    """Of the bars of the histogram of lengths; one more than there are bars, each without its upper edge."""
    bars: list[int]
    """Examples in each."""
    truncated: int
    """Examples that were cut to `dataset.maxLength`."""
    left_out: int
    """Rows with nothing to learn."""
    skipped: int
    """Bad rows."""
    reasons: list[str]
    """What the first bad rows are bad for."""
    labels: dict[str, int]
    """Label -> how often it is there, in the order of the outputs; empty for a task without."""
    samples: list[Shown]
    """The first, one of median length, and the longest; of `train` only."""

    @property
    def truncated_share(self) -> float:
        """Of all examples."""
        return self.truncated / self.examples


def describe(task: Task, splits: Splits) -> list[SplitReport]:
    """Return what the splits are like; reads each sample once."""
    return [_describe(task, split) for split in splits.each()]


def _describe(task: Task, split: Split) -> SplitReport:
    lengths = np.asarray(split.lengths)
    order = np.argsort(lengths, kind="stable")
    chosen = dict.fromkeys((0, int(order[(len(order) - 1) // 2]), int(order[-1]))) if split.name == "train" else {}
    counts = Counter(label for sample in split.examples for label in task.classes(sample)) if task.labels else Counter()
    edges = np.unique(np.linspace(lengths.min(), lengths.max() + 1, _BARS + 1).round().astype(int))
    return SplitReport(
        name=split.name,
        examples=len(lengths),
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        mean=round(float(lengths.mean()), 1),
        quantiles={q: int(np.percentile(lengths, q, method="inverted_cdf")) for q in QUANTILES},
        edges=edges.tolist(),
        bars=np.histogram(lengths, bins=edges)[0].tolist(),
        truncated=split.truncated,
        left_out=split.dropped,
        skipped=split.skipped.count,
        reasons=list(split.skipped.reasons),
        labels={label: counts[index] for index, label in enumerate(task.labels or [])},
        samples=[task.shown(split.examples[i]) for i in chosen],
    )


def info_of(reports: Sequence[SplitReport]) -> DataInfo:
    """Return what the status says."""
    examples = {report.name: report.examples for report in reports}
    reasons = [reason[:REASON_MAX_LENGTH] for report in reports for reason in report.reasons]
    return DataInfo(
        train_examples=examples["train"],
        validation_examples=examples.get("validation"),
        test_examples=examples.get("test"),
        truncated_examples=sum(report.truncated for report in reports),
        skipped_rows=sum(report.skipped for report in reports),
        skipped_reasons=reasons[:REASONS_MAX_ITEMS] or None,
    )


def lines(reports: Sequence[SplitReport]) -> Iterable[str]:
    """Yield the report for a log."""
    for report in reports:
        yield f"{report.name}: {', '.join(_parts(report))}"
        for reason in report.reasons:
            yield f"{report.name}: skipped {reason}"
    for report in reports:
        for number, sample in enumerate(report.samples, start=1):
            text = "".join(f"«{text}»" if learned else text for text, learned in sample.parts)
            text = " -> ".join(part for part in (text, sample.answer) if part).replace("\n", "\\n")
            if text:
                yield f"{report.name}, sample {number} (learned is what stands in «» or after ->): {_shortened(text)}"


def _parts(report: SplitReport) -> Iterable[str]:
    yield f"{report.examples} examples of {report.shortest} to {report.longest} tokens"
    yield f"half of them up to {report.quantiles[50]}, 95 % up to {report.quantiles[95]}"
    yield f"{report.truncated} ({report.truncated_share:.1%}) cut to maxLength"
    if report.left_out:
        yield f"{report.left_out} rows without anything to learn left out"
    if report.skipped:
        yield f"{report.skipped} bad rows skipped"
    if report.labels:
        most = sorted(report.labels.items(), key=lambda each: -each[1])[:_LABELS_LOGGED]
        more = f" and {len(report.labels) - len(most)} more" if len(report.labels) > len(most) else ""
        yield "labels: " + ", ".join(f"{label} {count}" for label, count in most) + more


def _shortened(text: str) -> str:
    half = _LOGGED // 2
    return text if len(text) <= _LOGGED else f"{text[:half]} … {text[-half:]}"


def to_json(reports: Sequence[SplitReport]) -> dict[str, Any]:
    """Return the report as metrics.json has it: split -> what it is like."""
    return {
        report.name: {
            "examples": report.examples,
            "lengths": {
                "shortest": report.shortest,
                **{f"p{percent}": length for percent, length in report.quantiles.items()},
                "longest": report.longest,
                "mean": report.mean,
                "histogram": {"edges": report.edges, "counts": report.bars},
            },
            "truncated": report.truncated,
            "leftOut": report.left_out,
            "skipped": report.skipped,
            **({"skippedReasons": report.reasons} if report.reasons else {}),
            **({"labels": report.labels} if report.labels else {}),
            **({"samples": [sample.to_json() for sample in report.samples]} if report.samples else {}),
        }
        for report in reports
    }
