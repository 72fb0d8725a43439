"""`make samples-local`: trains samples on this machine and compares each with its base and a baseline.

Usage: python -m samples.run [--quick] [NAME ...]; without names, every sample that has a job in crds/samples.

Each job is its file of crds/samples, with the uris of this machine in place of those of the cluster, and one process.
A sample is met when its adapter, loaded by plain transformers and peft, scores better on the test file than the base
and than the best baseline. The last line counts them; the exit code is 1 if one was missed. --quick takes bases and
few steps that learn nothing, and shows that the code works.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import yaml

from .kit import Sample
from .outcome import FILES, Job, Outcome, job_of, measured, parsed, told

ROOT = Path(__file__).resolve().parents[2]
QUICK_STEPS = 2


def local(job: Job, folder: Path, base: Path, *, is_quick: bool = False) -> Job:
    """Return a sample's job with the files of this machine in it: base, data and output; one process."""
    spec = job["spec"]
    files = {key: f"file://{folder}/{Path(uri).name}" for key, uri in spec["dataset"].items() if key in FILES}
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


def train(job: Job, folder: Path) -> Path:
    """Run the launcher on a job; return the adapter's folder.

    Raises:
        CalledProcessError: It failed; what it said stands before.
    """
    (folder / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    paths = os.pathsep.join(str(ROOT / name) for name in ("crds", "trainer"))
    command = [sys.executable, "-m", "peftjob_trainer.launch", str(folder / "job.yaml")]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=True)
    return folder / "adapter"


def main(arguments: list[str]) -> int:
    """Run what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m samples.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="on bases and for steps that learn nothing")
    args = parsed(parser, arguments)

    def outcome_of(sample: Sample) -> Outcome:
        def on_this_machine(job: Job, folder: Path, base: Path) -> Path:
            return train(local(job, folder, base, is_quick=args.quick), folder)

        return measured(sample, job_of(sample), on_this_machine, is_quick=args.quick)

    return told(args.names, outcome_of)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
