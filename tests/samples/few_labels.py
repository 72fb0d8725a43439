"""`make samples-few`: PeftJob's defaults against full fine-tuning of the same base, with 64 labelled examples.

Usage: python -m samples.few_labels [text] [image]

The adapter's job has base, data, task, output and a seed; it runs by the launcher, and what it publishes is loaded by
plain transformers and peft. Full fine-tuning is that of `full_tuning`, for as many epochs, at the best of a case's
rates by the mean accuracy on the validation file. A case is met when the adapter's mean accuracy on the test file is
at least that of full fine-tuning, with less than `MOST_TRAINED` of the parameters trained. The last line counts the
cases that are met; the exit code is 1 if one was missed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from . import full_tuning, imaging, sentiment
from .full_tuning import Inputs, Split, Tuned
from .kit import SPLITS, Sample
from .outcome import Job, markdown, share_trained
from .predict import PREDICT
from .run import local, train
from .uses import base_of

ROWS = 64
SEEDS = (1, 2, 3)
BATCH = 16
"""What PeftJob takes for so few examples."""
MOST_TRAINED = 0.02


@dataclass(frozen=True)
class Case:
    """A sample with few labels."""

    sample: Sample
    task: str
    ending: str
    """Of the data's files."""
    write: Callable[[Path], None]
    """Write them, with `ROWS` rows to train on."""
    read: Callable[[Path, str], Split]
    """Of the data's folder and a split."""
    model: str
    """The class in transformers."""
    inputs: Callable[[Path], Inputs]
    """Of the base's folder."""
    rates: tuple[float, ...]
    """Of full fine-tuning, to choose from by validation."""

    def new_model(self, base: Path, names: Sequence[str]) -> Any:
        """Return the base with a new classifier."""
        import transformers

        kind = getattr(transformers, self.model)
        return kind.from_pretrained(base, num_labels=len(names), ignore_mismatched_sizes=True, dtype=torch.float32)


@dataclass(frozen=True)
class Adapted(Tuned):
    """What a run of PeftJob came to."""

    share: float
    """Of all parameters, that were trained."""
    steps: int


def write_words(folder: Path) -> None:
    """Write the files of `sentiment`, with fewer rows to train on."""
    sentiment.SAMPLE.write(folder)
    file = folder / "train.csv"
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[: ROWS + 1]), encoding="utf-8")


def words(folder: Path, split: str) -> Split:
    """Return texts and labels."""
    return sentiment.read(folder, split, "text"), sentiment.read(folder, split, "label")


def pictures(folder: Path, split: str) -> Split:
    """Return image files and labels."""
    found = imaging.read(folder, split)
    return found["image"], found["label"]


CASES = {
    "text": Case(
        sentiment.SAMPLE, "SequenceClassification", "csv", write_words, words,
        "AutoModelForSequenceClassification", full_tuning.texts, (3e-5, 1e-4, 3e-4, 1e-3),
    ),
    "image": Case(
        imaging.SAMPLE, "ImageClassification", "parquet", imaging.SAMPLE.write, pictures,
        "AutoModelForImageClassification", full_tuning.images, (1e-4, 3e-4, 1e-3, 3e-3),
    ),
}  # fmt: skip


def job_of(case: Case, seed: int) -> Job:
    """Return a job that leaves all to its default but the seed."""
    return {
        "apiVersion": "peftjob.io/v1alpha1",
        "kind": "PeftJob",
        "metadata": {"name": "few-labels"},
        "spec": {
            "task": {"type": case.task},
            "dataset": {split: f"{split}.{case.ending}" for split in SPLITS},
            "training": {"seed": seed},
        },
    }


def by_adapter(case: Case, data: Path, base: Path, seed: int) -> Adapted:
    """Train a job of defaults; return what its adapter comes to."""
    with tempfile.TemporaryDirectory(prefix="peftjob-few-") as name:
        folder = Path(name)
        for file in data.iterdir():
            (folder / file.name).symlink_to(file)
        adapter = train(local(job_of(case, seed), folder, base), folder)
        told = json.loads((adapter / "metrics.json").read_text())
        asked, right = case.read(data, "test")
        score = case.sample.score(PREDICT[case.task](base, adapter, asked, ()), right)
        state, share = state_of(case, data, base, adapter), share_trained(base, adapter)
    return Adapted(told["validation"]["accuracy"], score, state, share, told["steps"])


def state_of(case: Case, data: Path, base: Path, adapter: Path) -> int:
    """Return the bytes of the trained state of a step that trains a published adapter further."""
    from peft import PeftModel

    names = json.loads((adapter / "labels.json").read_text())
    model = PeftModel.from_pretrained(case.new_model(base, names), adapter, is_trainable=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-9)
    rows, labels = case.read(data, "train")
    targets = torch.tensor([names.index(label) for label in labels[:2]])
    full_tuning.step(model, case.inputs(base)(rows[:2], False), targets, optimizer)
    return full_tuning.state_bytes(optimizer)


def by_all(case: Case, data: Path, base: Path, rate: float, seed: int, steps: int) -> Tuned:
    """Fine-tune all parameters for so many steps; return what that comes to."""
    splits = {split: case.read(data, split) for split in SPLITS}
    names = sorted(set(splits["train"][1]))
    torch.manual_seed(seed)
    model = case.new_model(base, names)
    return full_tuning.tune(
        model, case.inputs(base), names, splits, rate=rate, batch=BATCH, epochs=steps * BATCH // ROWS
    )


@dataclass(frozen=True)
class Comparison:
    """A case's runs, one for each seed."""

    name: str
    adapters: Sequence[Adapted]
    rate: float
    """Of full fine-tuning."""
    full: Sequence[Tuned]

    @property
    def is_met(self) -> bool:
        """Whether the adapter is as good, with few parameters."""
        as_good = mean(run.test for run in self.adapters) >= mean(run.test for run in self.full)
        return as_good and self.adapters[0].share < MOST_TRAINED

    def rows(self) -> list[tuple[str, ...]]:
        """Return two rows of the table."""
        own, all_ = self.adapters[0], self.full[0]
        share = f"{100 * own.share:.2f} %"
        return [
            _row(self.name, f"all parameters, rate {self.rate:g}", self.full, "100 %", 1.0, ""),
            _row(
                self.name, "defaults", self.adapters, share, all_.state / own.state, "met" if self.is_met else "missed"
            ),
        ]


def compare(name: str) -> Comparison:
    """Run a case."""
    case = CASES[name]
    base = base_of(case.sample)
    with tempfile.TemporaryDirectory(prefix="peftjob-few-data-") as folder:
        data = Path(folder)
        case.write(data)
        adapters = [by_adapter(case, data, base, seed) for seed in SEEDS]
        steps = adapters[0].steps
        full = {rate: [by_all(case, data, base, rate, seed, steps) for seed in SEEDS] for rate in case.rates}
    for rate, runs in full.items():
        print(f"{name}, rate {rate:g}: validation {mean(run.validation for run in runs):.3f}", file=sys.stderr)
    best = max(full, key=lambda rate: mean(run.validation for run in full[rate]))
    return Comparison(name, adapters, best, full[best])


COLUMNS = ("case", "trained", "accuracy", "by seed", "share", "trained state", "")


def table(found: Sequence[Comparison]) -> str:
    """Return the table in Markdown, and the line that counts."""
    lines = markdown(COLUMNS, (row for comparison in found for row in comparison.rows()))
    return "\n".join([*lines, "", f"few labels met: {sum(c.is_met for c in found)} of {len(found)}"])


def _row(name: str, what: str, runs: Sequence[Tuned], share: str, ratio: float, end: str) -> tuple[str, ...]:
    scores = ", ".join(f"{run.test:.3f}" for run in runs)
    state = f"{runs[0].state / 1e6:.2f} MB" + (f", 1/{ratio:.0f}" if end else "")
    return (name, what, f"{mean(run.test for run in runs):.3f}", scores, share, state, end)


def main(arguments: Sequence[str]) -> int:
    """Run the cases that are named, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m samples.few_labels", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*CASES, []], help=", ".join(CASES))
    found = [compare(name) for name in parser.parse_args(arguments).names or CASES]
    print(table(found), flush=True)
    return 0 if all(comparison.is_met for comparison in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
