"""What a sample came to: trained somewhere, measured by plain transformers and peft, told in a table.

Called by `run` and `four_fields`, which train on this machine, and `on_cluster`, which trains on the two-node cluster.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from .kit import Sample
from .predict import PREDICT
from .uses import JOBS, SAMPLES, base_of, runnable

Job = dict[str, Any]
Train = Callable[[Job, Path, Path], Path]
"""Of a PeftJob as its file has it, its data's folder, and its base's folder: train; return the adapter's folder."""

COLUMNS = ("sample", "metric", "base", "baseline", "adapter", "trained", "minutes", "")
KEPT = ("baseModel", "dataset", "task", "output")
"""The fields that a job needs, and those of `PLACE` where it runs on CPUs and a store of its own."""
PLACE = ("workers", "storage")
FILES = ("train", "validation", "test")
"""Parts of `spec.dataset` that are uris."""


@dataclass(frozen=True)
class Outcome:
    """What one sample came to."""

    name: str
    metric: str
    base: float
    baseline: float
    best: str
    """The baseline's name."""
    adapter: float
    trained: float
    """Share of the parameters."""
    minutes: float

    @property
    def is_met(self) -> bool:
        """Whether the adapter beats both."""
        return self.adapter > max(self.base, self.baseline)

    def cells(self) -> tuple[str, ...]:
        """Return a row of the table."""
        found = (f"{self.base:.3f}", f"{self.baseline:.3f} ({self.best})", f"{self.adapter:.3f}")
        rest = (f"{100 * self.trained:.2f} %", f"{self.minutes:.1f}", "met" if self.is_met else "missed")
        return (self.name, self.metric, *found, *rest)


def four_fields(job: Job) -> Job:
    """Return a sample's job with nothing set that has a default: no method, no settings of the task, no training."""
    spec = job["spec"]
    kept = {key: spec[key] for key in (*KEPT, *PLACE) if key in spec}
    kept["dataset"] = {key: uri for key, uri in spec["dataset"].items() if key in FILES}
    if "task" in kept:
        kept["task"] = {"type": spec["task"]["type"]}
    return {**job, "spec": kept}


def job_of(sample: Sample) -> Job:
    """Return a sample's job as its file has it."""
    job: Job = yaml.safe_load((JOBS / f"{sample.name}.yaml").read_text())
    return job


def score_of(sample: Sample, folder: Path, base: Path, adapter: Path | None) -> float:
    """Return what a base comes to on the test file of a data's folder, with an adapter or without."""
    questions, answers = sample.questions(folder), sample.answers(folder)
    predict = PREDICT[job_of(sample)["spec"].get("task", {}).get("type", "CausalLM")]
    return sample.score(predict(base, adapter, questions, sorted(set(answers))), answers)


def measured(sample: Sample, job: Job, train: Train, *, is_quick: bool = False) -> Outcome:
    """Make a sample's data, train a job on it, and measure base, baseline and adapter on the test file."""
    base = base_of(sample, is_quick=is_quick)
    with tempfile.TemporaryDirectory(prefix=f"peftjob-{sample.name}-") as name:
        folder = Path(name)
        sample.write(folder)
        best, baseline = sample.best_baseline(folder)
        untouched = score_of(sample, folder, base, None)
        started = time.monotonic()
        adapter = train(job, folder, base)
        minutes = (time.monotonic() - started) / 60
        learned = score_of(sample, folder, base, adapter)
        trained = share_trained(base, adapter)
    return Outcome(sample.name, sample.metric, untouched, baseline, best, learned, trained, minutes)


def share_trained(base: Path, adapter: Path) -> float:
    """Return the adapter's share of all parameters, by what the two folders' files hold."""
    trained, frozen = (sum(map(parameters, folder.glob("*.safetensors"))) for folder in (adapter, base))
    return trained / (frozen + trained)


def parameters(file: Path) -> int:
    """Return how many numbers a safetensors file holds."""
    with safe_open(file, "numpy") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118 (no dict)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]


def table(outcomes: list[Outcome]) -> str:
    """Return the table in Markdown, and the line that counts."""
    lines = markdown(COLUMNS, (outcome.cells() for outcome in outcomes))
    return "\n".join([*lines, "", f"samples met: {sum(o.is_met for o in outcomes)} of {len(outcomes)}"])


def told(names: list[str], outcome_of: Callable[[Sample], Outcome]) -> int:
    """Print the table of the named samples, or of all that have a job, and each one's row as soon as it is there.

    Returns:
        The exit code: 1 if a sample was missed.
    """
    outcomes = []
    for name in names or runnable():
        outcomes.append(outcome_of(SAMPLES[name]))
        print(" | ".join(outcomes[-1].cells()), file=sys.stderr, flush=True)
    print(table(outcomes), flush=True)
    return 0 if all(outcome.is_met for outcome in outcomes) else 1


def parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse the command line of a runner, with names of samples; names without a job are an error."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SAMPLES))
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in runnable()]
    if unknown:
        parser.error(f"no sample with a job: {', '.join(unknown)}; there are {', '.join(runnable())}")
    return args
