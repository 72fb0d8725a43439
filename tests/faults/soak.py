"""`python -m faults.soak --minutes N`: jobs with faults, one after the other, and what that leaves in memory and store.

One operator lives through all of it, and one long job trains beside the small ones; their memory is sampled, and the
slope of a line through the samples printed. The first fifth, in which everything is filled for the first time, is left
out.
"""

import argparse
import itertools
import os
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .carry_out import LabHand
from .drive import Driver, Outcome, run_undisturbed
from .judging import Trained
from .lab import Lab
from .machines import enter_own_network
from .plans import PATIENT, SHAPES, Fault, Plan, Shape, draw
from .report import Row, all_bars, bars, last_line, plan_line
from .store import BUCKET

LONG: Final = "undisturbed-100"
SAMPLE_SECONDS: Final = 5.0
_LONG_STEP_SECONDS: Final = 0.2
_WARM_UP: Final = 0.2
_MOST_GROWTH: Final = 0.05
"""Of the memory that there was at first, over the whole run."""
_FAULTS: Final = tuple(fault for fault in Fault if fault is not Fault.KILL_OPERATOR)


@dataclass
class Samples:
    """What was measured of a process, at which second."""

    seconds: list[float] = field(default_factory=list)
    kib: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    """Open files, sockets among them."""

    def take(self, pid: int, second: float) -> None:
        """Measure a process, if it is there."""
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
            files = len(os.listdir(f"/proc/{pid}/fd"))
        except (OSError, StopIteration):
            return
        self.seconds.append(second)
        self.kib.append(kib)
        self.files.append(files)

    def rows(self, what: str) -> list[Row]:
        """Return slope and growth, and the open files at first and last."""
        first = int(len(self.seconds) * _WARM_UP)
        seconds, kib, files = self.seconds[first:], self.kib[first:], self.files[first:]
        if len(seconds) < 3:
            return [Row(f"{what}: memory", "too few samples", met=False)]
        slope = statistics.linear_regression(seconds, kib).slope
        growth = slope * (seconds[-1] - seconds[0]) / kib[0]
        tenth = max(1, len(files) // 10)
        early, late = statistics.median(files[:tenth]), statistics.median(files[-tenth:])
        return [
            Row(f"{what}: memory, slope", f"{slope * 3600:+.0f} KB/h at {kib[0] / 1024:.0f} MiB"),
            Row(f"{what}: memory, growth", f"{growth:+.1%} <= {_MOST_GROWTH:.0%}", growth <= _MOST_GROWTH),
            Row(f"{what}: open files", f"{early:.0f}, at last {late:.0f}"),
        ]


class Sampler:
    """Measures the operator and the long job's rank 0 from a thread."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._began = time.monotonic()
        self._over = threading.Event()
        self.operator, self.trainer = Samples(), Samples()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> list[Row]:
        """End, and return what was found."""
        self._over.set()
        self._thread.join()
        return [*self.operator.rows("operator"), *self.trainer.rows("trainer's rank 0")]

    def _work(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            second = time.monotonic() - self._began
            self.operator.take(self._lab.operator.pid, second)
            for worker in self._lab.running(LONG):
                _, *ranks = worker.processes() or [0]
                if worker.index == 0 and ranks:
                    self.trainer.take(ranks[0], second)


def main() -> int:
    """Run; return 0 if every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--at-once", type=int, default=3)
    parser.add_argument("--seed", type=int, default=10_000)
    given = parser.parse_args()
    enter_own_network()
    with Lab(2 * given.at_once + 5) as lab:
        hand = LabHand(lab)
        measures = {
            s: run_undisturbed(lab, hand, Plan(-1 - n, s, (), 0)) for n, s in enumerate(sorted(set(SHAPES), key=str))
        }
        steps = round(60 * given.minutes / _LONG_STEP_SECONDS)
        lab.jobs.submit(Plan(-100, Shape(1, 1), (), PATIENT, steps))
        sampler = Sampler(lab)
        outcomes = soak(lab, hand, measures, given.minutes, given.at_once, given.seed)
        rows = [*bars("soak", outcomes), *sampler.stop(), *left(lab)]
    print(all_bars(rows))
    print(last_line(rows))
    return 0 if all(row.met for row in rows if row.met is not None) else 1


def soak(
    lab: Lab, hand: LabHand, measures: dict[Shape, Trained], minutes: float, at_once: int, seed: int
) -> list[Outcome]:
    """Carry out plan after plan for so many minutes; return what became of them."""
    deadline = time.monotonic() + 60 * minutes
    seeds = itertools.count(seed)
    outcomes: list[Outcome] = []

    def work() -> None:
        while time.monotonic() < deadline:
            plan = draw(next(seeds), _FAULTS)
            outcome = Driver(lab, hand, plan).run(measures[plan.shape])
            print(plan_line(outcome), flush=True)
            outcomes.append(outcome)

    with ThreadPoolExecutor(at_once) as pool:
        for future in [pool.submit(work) for _ in range(at_once)]:
            future.result()
    return outcomes


def left(lab: Lab) -> list[Row]:
    """Return how much is left in store and cluster of jobs that are over and deleted."""
    store = lab.jobs.store
    keys = [key for key in store.keys(BUCKET, "") if not key.startswith(lab.jobs.output(LONG))]
    uploads = store.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    pods: Sequence[dict[str, object]] = lab.jobs.api.get(lab.jobs.pods_path)["items"]
    own = [pod for pod in pods if not str(pod["metadata"]["name"]).startswith(LONG)]  # type: ignore[index]
    named = (("objects", keys), ("multipart uploads", uploads), ("pods", own))
    return [Row(f"left behind: {what}", str(len(found)), not found) for what, found in named]


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
