"""`make samples-local`: trains samples on this machine and compares each with its base and a baseline.

Usage: python -m samples.run [--quick] [NAME ...]; without names, every sample that has a job in crds/samples.

Each job is its file of crds/samples, with the uris of this machine in place of those of the cluster, and one process.
A sample is met when its adapter, loaded by plain transformers and peft, scores better on the test file than the base
and than the best baseline. The last line counts them; the exit code is 1 if one was missed. --quick takes bases and
few steps that learn nothing, and shows that the code works.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from .kit import Sample
from .predict import PREDICT
from .uses import JOBS, SAMPLES, base_of, runnable

ROOT = Path(__file__).resolve().parents[2]
QUICK_STEPS = 2
COLUMNS = ("sample", "metric", "base", "baseline", "adapter", "trained", "minutes", "")


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


def local(job: dict[str, Any], folder: Path, base: Path, *, is_quick: bool = False) -> dict[str, Any]:
    """Return a sample's job with the files of this machine in it: base, data and output; one process."""
    spec = job["spec"]
    splits = {split: spec["dataset"][split] for split in ("train", "validation", "test") if split in spec["dataset"]}
    files = {split: f"file://{folder}/{Path(uri).name}" for split, uri in splits.items()}
    changed = {
        **spec,
        "baseModel": {"uri": f"file://{base}"},
        "dataset": {**spec["dataset"], **files},
        "workers": {"processesPerNode": 1},
        "sharding": "Auto",
        "output": {"uri": f"file://{folder}/adapter"},
    }
    changed.pop("storage", None)
    if is_quick:
        kept = {key: value for key, value in spec.get("training", {}).items() if key not in ("epochs", "evaluation")}
        changed["training"] = {**kept, "maxSteps": QUICK_STEPS}
    return {**job, "spec": changed}


def train(job: dict[str, Any], folder: Path) -> None:
    """Run the launcher on a job.

    Raises:
        CalledProcessError: It failed; what it said stands before.
    """
    (folder / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    paths = os.pathsep.join(str(ROOT / name) for name in ("crds", "trainer"))
    command = [sys.executable, "-m", "peftjob_trainer.launch", str(folder / "job.yaml")]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=True)


def run(sample: Sample, *, is_quick: bool = False) -> Outcome:
    """Make the data, train, and measure."""
    job = yaml.safe_load((JOBS / f"{sample.name}.yaml").read_text())
    base = base_of(sample, is_quick=is_quick)
    predict = PREDICT[job["spec"].get("task", {}).get("type", "CausalLM")]
    with tempfile.TemporaryDirectory(prefix=f"peftjob-{sample.name}-") as name:
        folder = Path(name)
        sample.write(folder)
        best, baseline = sample.best_baseline(folder)
        questions, answers = sample.questions(folder), sample.answers(folder)
        labels = sorted(set(answers))
        untouched = sample.score(predict(base, None, questions, labels), answers)
        started = time.monotonic()
        train(local(job, folder, base, is_quick=is_quick), folder)
        minutes = (time.monotonic() - started) / 60
        adapter = sample.score(predict(base, folder / "adapter", questions, labels), answers)
        trained = share_trained(base, folder / "adapter")
    return Outcome(sample.name, sample.metric, untouched, baseline, best, adapter, trained, minutes)


def share_trained(base: Path, adapter: Path) -> float:
    """Return the adapter's share of all parameters, by what the two folders' files hold."""
    trained, frozen = (sum(map(parameters, folder.glob("*.safetensors"))) for folder in (adapter, base))
    return trained / (frozen + trained)


def parameters(file: Path) -> int:
    """Return how many numbers a safetensors file holds."""
    with safe_open(file, "numpy") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118 (no dict)


def table(outcomes: list[Outcome]) -> str:
    """Return the table in Markdown, and the line that counts."""
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *(outcome.cells() for outcome in outcomes)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", f"samples met: {sum(o.is_met for o in outcomes)} of {len(outcomes)}"])


def main(arguments: list[str]) -> int:
    """Run what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m samples.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SAMPLES))
    parser.add_argument("--quick", action="store_true", help="on bases and for steps that learn nothing")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in runnable()]
    if unknown:
        parser.error(f"no sample with a job: {', '.join(unknown)}; there are {', '.join(runnable())}")
    outcomes = [run(SAMPLES[name], is_quick=args.quick) for name in args.names or runnable()]
    print(table(outcomes))
    return 0 if all(outcome.is_met for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
