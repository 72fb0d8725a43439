"""What was measured, beside the bar it is held against: rows, their table and the last line. Used by every bench."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure."""

    what: str
    figure: str
    bar: str = ""
    met: bool | None = None
    """None: there is no bar, the figure is told for its own sake."""
    library: str = ""
    """The same figure of today's stack, where it was measured in the same run."""


@dataclass
class Found:
    """What a part of the bench found."""

    rows: list[Row] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    """Every figure as it was read, for JSON."""


def at_most(what: str, figure: float, bar: float, unit: str = "", *, library: float | None = None) -> Row:
    """Return the row of a figure that must not be larger than its bar."""
    return Row(what, said(figure, unit), f"<= {said(bar, unit)}", figure <= bar, _said_or_none(library, unit))


def at_least(what: str, figure: float, bar: float, unit: str = "") -> Row:
    """Return the row of a figure that must not be smaller than its bar."""
    return Row(what, said(figure, unit), f">= {said(bar, unit)}", figure >= bar)


def equal(what: str, *, holds: bool) -> Row:
    """Return the row of two things that must be the same."""
    return Row(what, "the same" if holds else "different", "the same", holds)


def told(what: str, figure: float, unit: str = "", *, library: float | None = None) -> Row:
    """Return the row of a figure without a bar."""
    return Row(what, said(figure, unit), library=_said_or_none(library, unit))


def said(figure: float, unit: str = "") -> str:
    """Return a figure with its unit: `x` for ratios, `B` for bytes (shown as kB, MB or GB), others as they are."""
    if unit == "B":
        scale, name = next(((s, n) for s, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if abs(figure) >= s), (1, "B"))
        return f"{figure / scale:.{0 if scale == 1 else 2}f} {name}"
    return f"{figure:.4g}{unit and f' {unit}'}"


def _said_or_none(figure: float | None, unit: str) -> str:
    return "" if figure is None else said(figure, unit)


def render(rows: Sequence[Row]) -> str:
    """Return a table for people."""
    lines = [("what", "bar", "figure", "today's stack", "")]
    lines += [(r.what, r.bar, r.figure, r.library, {True: "met", False: "MISSED", None: ""}[r.met]) for r in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def verdict(rows: Iterable[Row]) -> str:
    """Return the last line of a bench."""
    bars = [row.met for row in rows if row.met is not None]
    return f"bars met: {sum(bars)} of {len(bars)}"


def to_json(parts: dict[str, Found]) -> dict[str, Any]:
    """Return what is written to a file: each part's rows and raw figures."""
    return {name: {"rows": [vars(row) for row in found.rows], **found.raw} for name, found in parts.items()}
