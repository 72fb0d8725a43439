"""Times become bars and the table in the documentation; that table is there, whole."""

import re
from dataclasses import replace
from typing import Any

import pytest
from faults.drive import Hit, Outcome, Recovery
from faults.judging import End
from faults.plans import Fault
from faults.timed import BEGIN, DOCS, END, TIMED, group, timed_plans, times_table, with_table

INTERVAL = 50
JOB = {"status": {"restarts": 1}}
GONE_ON: dict[str, Any] = {"status": {}}
EVENTS = (("Normal", "Starting", ""), ("Warning", "InternalError", "rank 1 was killed"))


def outcome(noticed: float = 2.0, lost: int = 3, fault: Fault = Fault.KILL_RANK, gone: float = 5.0) -> Outcome:
    """Return what became of a timed fault."""
    (plan,) = timed_plans(1, [fault])
    recovery = Recovery(plan.strikes[0], noticed, gone, 20.0, lost)
    return Outcome(plan, [], recoveries=[recovery], end=End(JOB, {}, events=EVENTS))


def unended(fault: Fault = Fault.S3_AWAY, waited: float = 70.0, lost: tuple[int, ...] = (), **how: Any) -> Outcome:
    """Return what became of a fault that no gang ends by."""
    (plan,) = timed_plans(1, [fault])
    events = (("Warning", "WaitingForStorage", "no answer"),) if fault is Fault.S3_AWAY else ()
    hits = [Hit(plan.strikes[0], 5.0, 13)]
    told = [waited] if fault is Fault.S3_AWAY else []
    return replace(
        Outcome(plan, [], hits=hits, lost_steps=[*lost], waited=told, end=End(GONE_ON, {}, events=events)), **how
    )


def bars(*outcomes: Outcome) -> list[bool | None]:
    """Return which bars of one fault are met: steps, and where there are any, times."""
    (times,) = group(outcomes)
    return [row.met for row in times.bars("here", INTERVAL)]


def test_each_fault_hits_once_in_the_middle_of_training() -> None:
    plans = timed_plans(3)
    assert len({plan.name for plan in plans}) == len(plans) == 3 * len(TIMED)
    assert all(len(plan.strikes) == 1 for plan in plans)


@pytest.mark.parametrize(
    ("found", "met"),
    [
        ([outcome(), outcome(lost=INTERVAL)], [True, True]),
        ([outcome(), outcome(lost=INTERVAL + 1)], [False, True]),
        ([outcome(), outcome(noticed=10.1)], [True, False]),
        ([replace(outcome(), wrong=["a rank ran twice"])], [False, True]),
        ([replace(outcome(), recoveries=[])], [False, False]),
        ([outcome(fault=Fault.DRAIN)], [False, True]),
        ([outcome(fault=Fault.DRAIN, lost=0)], [True, True]),
        ([outcome(fault=Fault.DRAIN, lost=0), outcome(fault=Fault.DRAIN, lost=0, gone=31)], [True, False]),
        ([outcome(fault=Fault.DELETE_POD, noticed=11, lost=0)], [True, False, True]),
        ([outcome(fault=Fault.NODE_DIES, noticed=179)], [True, True]),
        ([unended(), unended(waited=120)], [True, True]),
        ([unended(), unended(waited=121)], [True, False]),
        ([unended(waited=1, lost=(0,))], [False, True]),
        ([unended(hits=[])], [False, True]),
        ([unended(Fault.PAUSE_API)], [True]),
        ([unended(Fault.PAUSE_API, wrong=["the job did not end"])], [False]),
    ],
)
def test_bars(found: list[Outcome], met: list[bool]) -> None:
    assert bars(*found) == met


def test_tables() -> None:
    found = group([outcome(noticed=2), outcome(noticed=4)])
    assert re.search(r"rank killed +2 of 2 +3\.0 +4\.0 +20\.0 +20\.0 +3", times_table(found))
    drained = "| a pod is drained (evicted) | `Disrupted` | nothing | 1 / 1 | 2 / 2 | 3 / 3 | 0 | 1 |"
    text = with_table(f"before\n{BEGIN}\nhead\n---\n{drained}\n| old |\n{END}\nafter", found)
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "old" not in text
    killed = "| a rank's process is killed | `InternalError` | a restart | 3 / 4 |  | 20 / 20 | 3 | 2 |"
    assert text.splitlines()[4:6] == [killed, drained]
    assert with_table(text, found) == text
    gone_on = group([unended(), unended(waited=80), unended(Fault.PAUSE_API)])
    assert with_table(text, gone_on).splitlines()[6:8] == [
        "| S3 is cut off for 3 minutes | `WaitingForStorage` | nothing | 75 / 80 |  | goes on | 0 | 2 |",
        "| the API server stands still for 60 s | none | nothing |  |  | goes on | 0 | 1 |",
    ]
    assert re.search(r"S3 away +2 of 2 +75\.0 +80\.0 +0", times_table(gone_on))


def test_the_documentation_has_what_was_timed() -> None:
    _, _, rest = DOCS.read_text().partition(BEGIN)
    rows, mark, _ = rest.partition(END)
    assert mark
    written = re.findall(r"^\| (.*?) \| (`.*?`.*?|none) \| .* \| ([1-9]\d*) \|$", rows, re.MULTILINE)
    found = [words for words, _, _ in written]
    assert found == [timed.words for timed in TIMED if timed.words in found]
    assert len(found) >= 7
