"""docs/failure-modes.md explains every reason that a user can meet, and no other."""

import re
from pathlib import Path

import pytest
from peftjob_api import PERMANENT, ExitCode, Reason
from peftjob_trainer.exits import TrainerError

DOCS = Path(__file__).resolve().parents[3] / "docs"
TEXT = (DOCS / "failure-modes.md").read_text()
ROWS = {row[1]: row[0] for row in re.finditer(r"^\| `(\w+)` \|.*\|$", TEXT, re.MULTILINE)}


def test_every_reason_has_a_row_and_every_row_a_reason() -> None:
    assert set(ROWS) == {reason.value for reason in Reason}


def test_no_reason_has_two_rows() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert len(rows) == len(set(rows))


def test_no_cell_is_empty() -> None:
    for reason, row in ROWS.items():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) in (3, 5), f"{reason}: {len(cells)} cells"
        assert all(cells), f"{reason}: an empty cell"


NAMED_BY_THE_TRAINER = TEXT.partition("## Named by the trainer")[2].partition("\n## ")[0]
TRAINER_REASONS = [Reason(name) for name in re.findall(r"^\| `(\w+)` \|", NAMED_BY_THE_TRAINER, re.MULTILINE)]


@pytest.mark.parametrize("reason", TRAINER_REASONS, ids=str)
def test_what_happens_is_what_the_exit_code_makes_happen(reason: Reason) -> None:
    code = TrainerError(reason, "").code
    assert f"(exit {int(code)})" in ROWS[reason.value]
    outcome = (
        "permanent" if code in PERMANENT else "retried" if code in (ExitCode.UNAVAILABLE, ExitCode.INTERNAL) else ""
    )
    assert outcome in ROWS[reason.value]
