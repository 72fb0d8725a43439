"""`make samples-four`: jobs of base, data, task and output only, against the tuned ones of crds/samples.

Usage: python -m samples.four_fields [NAME ...]; without names, every sample that has a job in crds/samples.

Both are trained on this machine as by `run`, once for each seed: one run says little, since a change of the seed alone
moves some of these scores by more than a hundredth. A sample is met when the mean score on the test file of the jobs
that leave all to its default is at most `TOLERANCE` below that of the tuned ones. The last line counts them; the exit
code is 1 if one was missed.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from .kit import Sample
from .outcome import Job, four_fields, job_of, markdown, parsed, score_of
from .run import local, train
from .uses import SAMPLES, base_of, runnable

SEEDS = (1, 2, 3)
TOLERANCE = 0.01
COLUMNS = ("sample", "metric", "four fields", "by seed", "tuned", "by seed", "")


@dataclass(frozen=True)
class Comparison:
    """A sample's scores on the test file, one for each seed."""

    name: str
    metric: str
    four: Sequence[float]
    tuned: Sequence[float]

    @property
    def is_met(self) -> bool:
        """Whether what is chosen by default does as well."""
        return mean(self.four) >= (1 - TOLERANCE) * mean(self.tuned)

    def cells(self) -> tuple[str, ...]:
        """Return a row of the table."""
        scores = [cell for each in (self.four, self.tuned) for cell in (_text([mean(each)]), _text(each))]
        return (self.name, self.metric, *scores, "met" if self.is_met else "missed")


def _text(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:.3f}" for score in scores)


def seeded(job: Job, seed: int) -> Job:
    """Return a job with a seed of its training."""
    spec = job["spec"]
    return {**job, "spec": {**spec, "training": {**spec.get("training", {}), "seed": seed}}}


def compare(sample: Sample) -> Comparison:
    """Train a sample both ways, with each seed."""
    tuned, base = job_of(sample), base_of(sample)

    def score(job: Job) -> float:
        with tempfile.TemporaryDirectory(prefix=f"peftjob-{sample.name}-") as name:
            folder = Path(name)
            sample.write(folder)
            return score_of(sample, folder, base, train(local(job, folder, base), folder))

    found = ([score(seeded(job, seed)) for seed in SEEDS] for job in (four_fields(tuned), tuned))
    return Comparison(sample.name, sample.metric, *found)


def table(found: Sequence[Comparison]) -> str:
    """Return the table in Markdown, and the line that counts."""
    lines = markdown(COLUMNS, (comparison.cells() for comparison in found))
    return "\n".join([*lines, "", f"four fields met: {sum(c.is_met for c in found)} of {len(found)}"])


def main(arguments: list[str]) -> int:
    """Run what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m samples.four_fields", description=__doc__)
    found = []
    for name in parsed(parser, arguments).names or runnable():
        found.append(compare(SAMPLES[name]))
        print(" | ".join(found[-1].cells()), file=sys.stderr, flush=True)
    print(table(found), flush=True)
    return 0 if all(comparison.is_met for comparison in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
