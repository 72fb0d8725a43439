"""What the suite prints: a line for each plan, a table of faults, the bars, and the last line; pure."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .drive import Outcome
from .plans import Fault, Moment


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
