"""What the suite prints: a line for each plan, a table of faults, the bars, and the last line; pure."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .drive import Outcome
from .plans import PATIENT, STEPS, Fault, Moment, Plan, Shape, Strike

_FIRST_TIMED: Final = 100_000
"""Seeds from here on name plans for one timed fault."""


@dataclass(frozen=True)
class Row:
    """A bar, and what was found."""

    what: str
    figure: str
    met: bool | None = None
    """None: told for its own sake."""


def plan_line(outcome: Outcome) -> str:
    """Return a line on a plan, and one for each thing that is wrong."""
    status = ((outcome.end and outcome.end.job) or {}).get("status", {})
    hits = "; ".join(f"{hit.at:.0f} s, step {hit.step}: {hit.strike}" for hit in outcome.hits)
    head = (
        f"{'WRONG' if outcome.wrong else 'right'}  {outcome.plan.name} ({outcome.plan.shape}): {outcome.state} after "
        f"{outcome.seconds:.0f} s, {status.get('attempt', 0)} attempts, {status.get('restarts', 0)} restarts, "
        f"{status.get('disruptions', 0)} disruptions, steps made again {outcome.lost_steps}: {hits}"
    )
    return "\n".join([head, *(f"       {text}" for text in outcome.wrong)])


def faults_table(outcomes: Sequence[Outcome]) -> str:
    """Return how often each fault came at which moments, and the seconds from one that ended a gang to a new step."""
    counts = Counter((hit.strike.fault, hit.strike.moment) for outcome in outcomes for hit in outcome.hits)
    lines = [("fault", *(f"at a {moment}" for moment in Moment), "ended gangs", "median s", "most s")]
    for fault in Fault:
        seconds = [r.seconds for outcome in outcomes for r in outcome.recoveries if r.strike.fault is fault]
        times = (f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}") if seconds else ("", "")
        lines.append((fault, *(str(counts[fault, moment]) for moment in Moment), str(len(seconds)), *times))
    return table(lines)


@dataclass(frozen=True)
class Timed:
    """A fault whose recovery is timed, and what is asked of it."""

    fault: Fault
    seconds: float
    """That it lasts at most; it ends with the job."""
    noticed_within: float | None
    """Seconds until the status says so; None: a person asked for it."""
    may_lose_steps: bool


TIMED: Final = (
    Timed(Fault.KILL_RANK, 0, 10, may_lose_steps=True),
    Timed(Fault.KILL_POD, 0, 10, may_lose_steps=True),
    Timed(Fault.DELETE_POD, 0, 10, may_lose_steps=True),
    Timed(Fault.NODE_DIES, 300, 180, may_lose_steps=True),
    Timed(Fault.CUT_NETWORK, 300, 180, may_lose_steps=True),
    Timed(Fault.DRAIN, 0, None, may_lose_steps=False),
    Timed(Fault.SUSPEND, 0, None, may_lose_steps=False),
)


def timed_plans(times: int) -> list[Plan]:
    """Return so many plans for each timed fault, which hits once in the middle of training."""
    return [
        Plan(_FIRST_TIMED + 100 * row + number, Shape(2, 1), (_once(timed, number),), PATIENT)
        for row, timed in enumerate(TIMED)
        for number in range(times)
    ]


def _once(timed: Timed, number: int) -> Strike:
    return Strike(timed.fault, Moment.STEP, STEPS // 3 + number, target=number, seconds=timed.seconds)


def times(where: str, outcomes: Sequence[Outcome], interval: int) -> list[Row]:
    """Return the bars of timed faults, printed as a table.

    Args:
        where: The ground.
        outcomes: Of `timed_plans`.
        interval: Steps between two checkpoints.
    """
    lines: list[Sequence[str]] = [
        ("fault", "runs", "noticed median s", "most", "trains again median s", "most", "steps lost, most")
    ]
    rows = []
    for timed in TIMED:
        own = [outcome for outcome in outcomes if outcome.plan.strikes[0].fault is timed.fault]
        if not own:
            continue
        found = [recovery for outcome in own for recovery in outcome.recoveries]
        noticed, seconds = [r.noticed for r in found], [r.seconds for r in found]
        lost = max((r.lost_steps for r in found), default=0)
        told = [f"{f(values):.1f}" for values in (noticed, seconds) if values for f in (statistics.median, max)]
        lines.append((timed.fault, f"{len(found)} of {len(own)}", *(told or [""] * 4), str(lost)))
        is_whole = len(found) == len(own) and not any(outcome.wrong for outcome in own)
        most = interval if timed.may_lose_steps else 0
        rows.append(Row(f"{where}: {timed.fault}: steps lost", f"{lost} <= {most}", is_whole and lost <= most))
        if timed.noticed_within is not None:
            slowest = max(noticed, default=float("inf"))
            what = f"{where}: {timed.fault}: noticed"
            rows.append(Row(what, f"{slowest:.1f} s <= {timed.noticed_within:g} s", slowest <= timed.noticed_within))
    print(f"{where}: from a fault to the first new step\n{table(lines)}")
    return rows


def bars(where: str, outcomes: Sequence[Outcome]) -> list[Row]:
    """Return the bars of the seeded plans that were carried out somewhere."""

    def count(*words: str) -> int:
        return sum(any(word in text for word in words) for outcome in outcomes for text in outcome.wrong)

    ends = Counter(outcome.state for outcome in outcomes)
    lost = [steps for outcome in outcomes for steps in outcome.lost_steps]
    right = sum(not outcome.wrong for outcome in outcomes)
    return [
        Row(f"{where}: plans right in everything", f"{right} of {len(outcomes)}", right == len(outcomes)),
        zero(f"{where}: wrong adapters", count("is not the undisturbed", "are not the undisturbed", "manifest")),
        zero(f"{where}: orphans, leaks", count("orphan", "outlived", "was left", "has not ended", "is still there")),
        zero(f"{where}: accepted from superseded gangs", count("was accepted after", "had one claim")),
        zero(f"{where}: ranks twice at one time", count("ran twice")),
        Row(f"{where}: ends", ", ".join(f"{state} {number}" for state, number in sorted(ends.items()))),
        Row(f"{where}: faults carried out", str(sum(len(outcome.hits) for outcome in outcomes))),
        Row(f"{where}: gangs that went on", str(len(lost))),
        Row(f"{where}: most steps made again", str(max(lost, default=0))),
    ]


def zero(what: str, number: int) -> Row:
    """Return the row of something of which there must be none."""
    return Row(what, str(number), number == 0)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines with their columns aligned."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines) + "\n"


def all_bars(rows: Iterable[Row]) -> str:
    """Return the bars as a table."""
    return table([("what", "figure", "bar"), *((row.what, row.figure, _said(row.met)) for row in rows)])


def last_line(rows: Iterable[Row]) -> str:
    """Return the last line of the suite."""
    met = [row.met for row in rows if row.met is not None]
    return f"bars met: {sum(met)} of {len(met)}"


def _said(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: ""}[met]
