"""docs/failure-modes.md explains every reason that a user can meet, and no other; each row is shown by a test.

A row of a table of faults ends in the tests that make the fault and see what the row says. Here: that they are there,
that they look for the row's reason and state, and that the operator's decision is what the row says.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from peftjob_api import PERMANENT, ExitCode, Reason
from peftjob_operator.decide import decide
from peftjob_testkit.builders import child_job, peftjob, running, snapshot, worker
from peftjob_testkit.decisions import word
from peftjob_testkit.evidence import evidence, own_words
from peftjob_trainer.exits import TrainerError

DOCS = Path(__file__).resolve().parents[3] / "docs"
TEXT = (DOCS / "failure-modes.md").read_text()
SHOWN = "shown by"
UNSHOWN_TABLES = {"condition": "what conditions there are", "fault": "written by the fault suite itself"}
"""By the first word of their heads, if they have no column of tests: and why."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    head: tuple[str, ...]
    cells: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is about."""
        return self.cells[0].strip("`")

    @property
    def tests(self) -> list[tuple[str, Path]]:
        """The tests that show it: name and module."""
        return [(name, (DOCS / path).resolve()) for name, path in re.findall(r"\[([^]]+)\]\(([^)]+)\)", self.cells[-1])]

    @property
    def proof(self) -> str:
        """What these tests say."""
        return "\n".join(evidence(path, name) or "" for name, path in self.tests)

    def __getitem__(self, column: str) -> str:
        """Return the cell of a column; empty if there is none."""
        return self.cells[self.head.index(column)] if column in self.head else ""


def cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def tables(text: str) -> list[list[Row]]:
    """Return the tables of a page."""
    found = re.findall(r"^(\|.*\|)\n\|[-|]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    return [[Row(cells(head), cells(line)) for line in lines.splitlines()] for head, lines in found]


FAULTS = [row for table in tables(TEXT) if table[0].head[-1] == SHOWN for row in table]
EVERY_FAULT = pytest.mark.parametrize("row", FAULTS, ids=[row.name[:40] for row in FAULTS])
REASONS = {row.name: row for row in FAULTS if row.head[0] == "reason"}
TRAINERS = {name: row for name, row in REASONS.items() if "(exit " in row["what happens"]}


def test_every_reason_has_a_row_and_every_row_a_reason() -> None:
    assert set(REASONS) == {reason.value for reason in Reason}
    assert len(REASONS) == sum(row.head[0] == "reason" for row in FAULTS), "two rows have the same reason"


def test_every_table_but_the_named_says_what_shows_it() -> None:
    assert {table[0].head[0] for table in tables(TEXT) if table[0].head[-1] != SHOWN} == set(UNSHOWN_TABLES)
    assert len(FAULTS) > 70


@EVERY_FAULT
def test_no_cell_is_empty(row: Row) -> None:
    assert len(row.cells) == len(row.head)
    assert all(row.cells)


@EVERY_FAULT
def test_a_row_is_shown_by_tests_that_are_there(row: Row) -> None:
    assert row.tests
    assert [name for name, path in row.tests if evidence(path, name) is None] == []


def test_what_other_text_names_is_there() -> None:
    named = re.findall(r"\[([^]]+)\]\((\.\./tests/[^)]+\.py)\)", TEXT)
    assert [name for name, path in named if evidence((DOCS / path).resolve(), name) is None] == []
    assert len(re.findall(r"^Shown by: ", TEXT, re.MULTILINE)) == 5


@EVERY_FAULT
def test_its_tests_look_for_what_it_says(row: Row) -> None:
    """The reason in each of them; the other reasons and states that the row shows in some of them."""
    if row.head[0] == "reason":
        assert [name for name, path in row.tests if not says(evidence(path, name) or "", row.name)] == []
    words = set(re.findall(r"`(\w+)(?:=(?:True|False))?`", row["you see"] + row["cause"] * (row.name not in TRAINERS)))
    if row.name in TRAINERS:
        words.clear()  # the operator's part: see below
    known = {*map(str, Reason), "Failed", "Restarting", "Suspended", "Publishing", "Running", "WorkersReady"}
    assert [word for word in sorted(words & known) if not says(row.proof, word)] == []


@EVERY_FAULT
def test_a_bad_input_ends_as_the_row_says(row: Row) -> None:
    """The cases of tests/e2e/test_bad_inputs.py expect `Failed` unless they say otherwise."""
    for name in [name for name, path in row.tests if path.name == "test_bad_inputs.py"]:
        waits = "want_failed=False" in (own_words(DOCS / "../tests/e2e/test_bad_inputs.py", name) or "")
        assert ("`WorkersReady=False`" if waits else "`Failed`") in row["you see"]


def says(text: str, word: str) -> bool:
    """Whether a source has a reason, or another word, as such."""
    names = [re.escape(word)]
    if word in set(map(str, Reason)):
        names.append(rf"Reason\.{Reason(word).name}")
    return re.search(rf"\b(?:{'|'.join(names)})\b", text) is not None


@pytest.mark.parametrize("row", TRAINERS.values(), ids=list(TRAINERS))
def test_what_happens_is_what_the_exit_code_makes_happen(row: Row) -> None:
    code = TrainerError(Reason(row.name), "").code
    assert f"(exit {int(code)})" in row["what happens"]
    is_retried = code in (ExitCode.UNAVAILABLE, ExitCode.INTERNAL)
    assert ("permanent" if code in PERMANENT else "retried" if is_retried else "") in row["what happens"]


@pytest.mark.parametrize("row", TRAINERS.values(), ids=list(TRAINERS))
def test_what_you_see_is_what_the_operator_tells(row: Row) -> None:
    """Of a gang that a worker ended with this reason: the row's states, with and without a restart left."""
    code = TrainerError(Reason(row.name), "").code
    pods = [worker(0, exit_code=code, word=word(row.name, code, "why")), worker(1, exit_code=ExitCode.LOST_PEER)]
    seen = []
    for restarts in (0, 3):
        job = peftjob(running(restarts=restarts, restartsWithoutProgress=restarts), maxRestarts=3)
        status = decide(snapshot(job, [child_job(failed="a pod has failed")], pods, jitter=0.5)).status
        seen.append((status.state, {c.type: c.reason for c in status.conditions}))
    if row["you see"].startswith("a worker's log"):
        assert [(state, told["WorkersReady"]) for state, told in seen] == [("Restarting", "Disrupted")] * 2
        return
    first, *others = re.findall(r"`(Failed|Restarting)`", row["you see"])
    assert [state for state, _ in seen] == [first, *(others or [first])]
    assert [told["Failed" if state == "Failed" else "WorkersReady"] for state, told in seen] == [row.name] * 2
