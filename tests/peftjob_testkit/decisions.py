"""A table of decisions: what is seen, and what the operator must make of it. Used by tests/unit/controller."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from peftjob_operator.decide import (
    Action,
    CreateAttempt,
    Decision,
    DeleteJob,
    DeletePeftJob,
    KillPod,
    RestoreParts,
    decide,
)

from .builders import ADAPTER, Object, snapshot

Conditions = Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Case:
    """One row: a situation and what must follow."""

    name: str
    job: Object
    jobs: Sequence[Object] = ()
    pods: Sequence[Object] = ()
    seen: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the snapshot."""
    want_actions: Sequence[str] = ()
    want_state: str | None = None
    want_conditions: Conditions = field(default_factory=dict)
    """By type: status and reason."""
    want_words: Sequence[str] = ()
    """In the message of the condition that holds, or else of WorkersReady."""
    want_status: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the status as it is written; None for those that are absent."""
    want_requeue: tuple[float, float] | None = None
    """Bounds of the time until the next look."""
    want_no_write: bool = False

    def check(self) -> None:
        """Decide, and compare."""
        seen = snapshot(self.job, self.jobs, self.pods, **{"jitter": 0.5, **self.seen})
        decision = decide(seen)
        assert [spell(action) for action in decision.actions] == list(self.want_actions)
        wire = decision.status.to_wire()
        if self.want_no_write:
            assert decision.status == seen.status
        if self.want_state is not None:
            assert wire.get("state") == self.want_state
        found = {c["type"]: (c["status"], c["reason"]) for c in wire.get("conditions", [])}
        assert {type_: found.get(type_) for type_ in self.want_conditions} == dict(self.want_conditions)
        for words in self.want_words:
            assert words in told(decision)
        assert {name: wire.get(name) for name in self.want_status} == dict(self.want_status)
        if self.want_requeue is not None:
            assert decision.requeue is not None
            least, most = self.want_requeue
            assert least <= decision.requeue <= most


def every(cases: Sequence[Case]) -> pytest.MarkDecorator:
    """Return the mark that runs a test with each row, under the row's name."""
    assert len({case.name for case in cases}) == len(cases), "two rows have the same name"
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def spell(action: Action) -> str:
    """Return an action in two words."""
    match action:
        case CreateAttempt(attempt):
            return f"create {attempt}"
        case DeleteJob(job):
            return f"delete {job.name}"
        case KillPod(pod):
            return f"kill {pod.name}"
        case RestoreParts():
            return "restore"
        case DeletePeftJob():
            return "delete the PeftJob"


def told(decision: Decision) -> str:
    """Return the message that a person reads first."""
    for type_ in ("Failed", "Succeeded", "WorkersReady"):
        found = next((c for c in decision.status.conditions if c.type == type_), None)
        if found and (found.status == "True" or type_ == "WorkersReady"):
            return found.message
    return ""


def word(reason: str, exit_code: int, message: str = "", **fields: Any) -> str:
    """Return a worker's termination message."""
    return json.dumps({"reason": reason, "message": message, "exitCode": exit_code, "rank": 0, **fields})


def result(**fields: Any) -> str:
    """Return the termination message of a worker that published."""
    return word("Finished", 0, adapter=ADAPTER, **fields)
