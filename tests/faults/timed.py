"""Single faults in the middle of training: what a user sees, what it costs, and how long it is until training goes on.

`python -m faults --cluster-times N --docs` writes what was found on the two-node cluster into docs/failure-modes.md.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .drive import Outcome
from .plans import PATIENT, STEPS, Fault, Moment, Plan, Shape, Strike
from .report import Row, table

DOCS: Final = Path(__file__).resolve().parents[2] / "docs/failure-modes.md"
BEGIN: Final = "<!-- faults: written by `python -m faults --docs` -->"
END: Final = "<!-- end of faults -->"
_FIRST_SEED: Final = 100_000
"""Seeds from here on name plans for one timed fault."""


@dataclass(frozen=True)
class Timed:
    """A fault whose recovery is timed, and what is asked of it."""

    fault: Fault
    words: str
    """What it is, for people."""
    seconds: float
    """That it lasts at most; it ends with the job."""
    noticed_within: float | None
    """Seconds until the status says so; None: a person asked for it."""
    may_lose_steps: bool
    gone_within: float | None = None
    """Seconds until the gang's processes have ended; None: they may not have been told to."""
    ends_gang: bool = True
    """Whether the gang ends by it, and another one goes on; otherwise it trains on."""


GRACE_SECONDS: Final = 30
"""That Kubernetes gives pods to end, unless they say otherwise."""

TIMED: Final = (
    Timed(Fault.KILL_RANK, "a rank's process is killed", 0, 10, may_lose_steps=True),
    Timed(Fault.KILL_POD, "all processes of a pod are killed", 0, 10, may_lose_steps=True),
    Timed(Fault.DELETE_POD, "a pod is deleted", 0, 10, may_lose_steps=False, gone_within=GRACE_SECONDS),
    Timed(Fault.NODE_DIES, "kubelet and containers of a node die, and its network goes", 300, 180, may_lose_steps=True),
    Timed(Fault.CUT_NETWORK, "a node's network is cut, all runs on", 300, 180, may_lose_steps=True),
    # Three steps and a minute; steps take about a second where two pods share two CPUs.
    Timed(Fault.PAUSE_RANK, "a rank's process stands still (`SIGSTOP`)", 300, 63, may_lose_steps=True),
    Timed(Fault.DRAIN, "a pod is drained (evicted)", 0, None, may_lose_steps=False, gone_within=GRACE_SECONDS),
    Timed(Fault.SUSPEND, "`spec.suspend` is set for 15 s", 15, None, may_lose_steps=False, gone_within=GRACE_SECONDS),
    # Two time-outs of a read come first; then the operator's next look.
    Timed(Fault.S3_AWAY, "S3 is cut off for 3 minutes", 180, 120, may_lose_steps=False, ends_gang=False),
    Timed(Fault.PAUSE_API, "the API server stands still for 60 s", 60, None, may_lose_steps=False, ends_gang=False),
)


def timed_plans(times: int, faults: Sequence[Fault] = ()) -> list[Plan]:
    """Return so many plans for each timed fault, which hits once in the middle of training.

    Args:
        times: How many for each.
        faults: Those to time; none: all.
    """
    return [
        Plan(_FIRST_SEED + 100 * row + number, Shape(2, 1), (_once(timed, number),), PATIENT)
        for row, timed in enumerate(TIMED)
        for number in range(times)
        if not faults or timed.fault in faults
    ]


def hits_all(plan: Plan) -> bool:
    """Tell whether a timed plan's fault is one of what all jobs share, so that it would disturb others' times."""
    return plan.strikes[0].fault in (Fault.S3_AWAY, Fault.PAUSE_API)


def _once(timed: Timed, number: int) -> Strike:
    return Strike(timed.fault, Moment.STEP, STEPS // 3 + number, target=number, seconds=timed.seconds)


@dataclass(frozen=True)
class Times:
    """What was found of one timed fault."""

    timed: Timed
    outcomes: Sequence[Outcome]

    @property
    def noticed(self) -> list[float]:
        """Seconds until the status told."""
        if not self.timed.ends_gang:
            return [outcome.waited[0] for outcome in self.outcomes if outcome.waited]
        return [recovery.noticed for outcome in self.outcomes for recovery in outcome.recoveries]

    @property
    def gone(self) -> list[float]:
        """Seconds until the gang's processes had ended, where they were told to."""
        asked = self.timed.gone_within is not None
        return [recovery.gone for outcome in self.outcomes for recovery in outcome.recoveries if asked]

    @property
    def seconds(self) -> list[float]:
        """Seconds until the first new step."""
        return [recovery.seconds for outcome in self.outcomes for recovery in outcome.recoveries]

    @property
    def lost_steps(self) -> int:
        """The most steps that were made again."""
        if not self.timed.ends_gang:
            return max((lost for outcome in self.outcomes for lost in outcome.lost_steps), default=0)
        return max((r.lost_steps for outcome in self.outcomes for r in outcome.recoveries), default=0)

    @property
    def is_whole(self) -> bool:
        """Whether each run was ended by its fault, if that ends any, went on, and came to the right end."""
        if not self.timed.ends_gang:
            return all(outcome.hits and not outcome.lost_steps and not outcome.wrong for outcome in self.outcomes)
        return all(len(outcome.recoveries) == 1 and not outcome.wrong for outcome in self.outcomes)

    def bars(self, where: str, interval: int) -> list[Row]:
        """Return the bars; `interval` is in steps between two checkpoints."""
        most = interval if self.timed.may_lose_steps else 0
        is_met = self.is_whole and self.lost_steps <= most
        rows = [Row(f"{where}: {self.timed.fault}: steps lost", f"{self.lost_steps} <= {most}", is_met)]
        if (within := self.timed.noticed_within) is not None:
            slowest = max(self.noticed, default=float("inf"))
            what = f"{where}: {self.timed.fault}: noticed"
            rows.append(Row(what, f"{slowest:.1f} s <= {within:g} s", slowest <= within))
        if (within := self.timed.gone_within) is not None:
            slowest = max(self.gone, default=float("inf"))
            what = f"{where}: {self.timed.fault}: workers gone"
            rows.append(Row(what, f"{slowest:.1f} s <= {within:g} s", slowest <= within))
        return rows

    def line(self) -> list[str]:
        """Return the row of a table."""
        struck = self.outcomes if not self.timed.ends_gang else [o for o in self.outcomes if o.recoveries]
        found = f"{len(struck)} of {len(self.outcomes)}"
        times = [cell for values in (self.noticed, self.gone, self.seconds) for cell in _both(values)]
        return [self.timed.fault, found, *times, str(self.lost_steps)]

    def in_docs(self) -> str:
        """Return the row of the table in the documentation."""
        reasons = sorted({reason for outcome in self.outcomes for reason in outcome.reasons})
        statuses = [((outcome.end and outcome.end.job) or {}).get("status", {}) for outcome in self.outcomes]
        costs = sorted({_cost(status.get("restarts", 0), status.get("disruptions", 0)) for status in statuses})
        seen = ", ".join(f"`{reason}`" for reason in reasons) or "none"
        times = [" / ".join(_both(values, 0)) if values else "" for values in (self.noticed, self.gone, self.seconds)]
        runs = len(self.seconds)
        if not self.timed.ends_gang:
            times[-1], runs = "goes on", len(self.outcomes)
        cells = [self.timed.words, seen, ", ".join(costs), *times, str(self.lost_steps), str(runs)]
        return f"| {' | '.join(cells)} |"


def group(outcomes: Sequence[Outcome]) -> list[Times]:
    """Return what was found, by fault."""
    found = [Times(t, [o for o in outcomes if o.plan.strikes[0].fault is t.fault]) for t in TIMED]
    return [times for times in found if times.outcomes]


def times_table(found: Sequence[Times]) -> str:
    """Return the table for a terminal."""
    head = [
        "fault", "runs", "noticed median s", "most", "gone median s", "most", "trains again median s", "most",
        "steps lost, most",
    ]  # fmt: skip
    return table([head, *(times.line() for times in found)])


def with_table(text: str, found: Sequence[Times]) -> str:
    """Return the documentation's text with what was found in its table; rows of other faults stay as they are."""
    names = ("fault", "reason", "costs", "noticed, s", "workers gone, s", "trains again, s", "steps made again", "runs")
    head = f"| {' | '.join(names)} |\n{'|---' * len(names)}|"
    before, _, rest = text.partition(BEGIN)
    written, _, after = rest.partition(END)
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in written.splitlines()[3:]}
    rows |= {times.timed.words: times.in_docs() for times in found if times.seconds or not times.timed.ends_gang}
    ordered = [rows[timed.words] for timed in TIMED if timed.words in rows]
    return "\n".join([f"{before}{BEGIN}", head, *ordered, f"{END}{after}"])


def _both(values: Sequence[float], decimals: int = 1) -> list[str]:
    """Return median and maximum."""
    return [f"{f(values):.{decimals}f}" for f in (statistics.median, max)] if values else ["", ""]


def _cost(restarts: int, disruptions: int) -> str:
    if restarts:
        return "a restart"
    return "nothing (a disruption)" if disruptions else "nothing"
