"""Rows, bars and the last line of a bench."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests/bench"))

from kit.table import Row, at_least, at_most, equal, render, said, told, verdict


@pytest.mark.parametrize(
    ("row", "want_met"),
    [
        (at_most("reads", 1.02, 1.02, "x"), True),
        (at_most("reads", 1.0200001, 1.02, "x"), False),
        (at_least("faster", 8.0, 8.0, "x"), True),
        (at_least("faster", 7.999, 8.0, "x"), False),
        (equal("values", holds=True), True),
        (equal("values", holds=False), False),
        (told("tokens", 5.0), None),
        (at_most("nothing is a number below no bar", float("nan"), 1.0), False),
    ],
)
def test_a_bar_is_met_up_to_the_bar_itself(row: Row, want_met: bool | None) -> None:
    assert row.met is want_met


@pytest.mark.parametrize(
    ("figure", "unit", "want"),
    [
        (0, "B", "0 B"),
        (999, "B", "999 B"),
        (65536, "B", "65.54 kB"),
        (4.2e6, "B", "4.20 MB"),
        (2.2e9, "B", "2.20 GB"),
        (1.25, "x", "1.25 x"),
        (12473.0, "tokens/s", "1.247e+04 tokens/s"),
        (3.0, "", "3"),
    ],
)
def test_figures_are_said_with_their_unit(figure: float, unit: str, want: str) -> None:
    assert said(figure, unit) == want


def test_the_last_line_counts_only_bars() -> None:
    rows = [at_most("a", 1, 2), at_most("b", 3, 2), told("c", 9)]
    assert verdict(rows) == "bars met: 1 of 2"


def test_a_missed_bar_is_seen_in_the_table() -> None:
    lines = render([at_most("a", 1, 2), at_most("b", 3, 2, library=4), told("c", 9)]).splitlines()
    assert [line.split() for line in lines[1:]] == [["a", "<=", "2", "1", "met"], ["b", "<=", "2", "3", "4", "MISSED"],
                                                    ["c", "9"]]  # fmt: skip
