"""The small pure parts: judging, conditions, patches, Events, settings."""

import itertools
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peftjob_api import Checkpoint, Failure, PeftJobStatus, Progress, Reason
from peftjob_operator.decide import decide
from peftjob_operator.events import Announcement, announcements, event
from peftjob_operator.restart import Cause, Reach, Record, judge, pause
from peftjob_operator.settings import Settings
from peftjob_operator.status import human_duration, merge_patch, progress_is_due, with_condition
from peftjob_testkit.api_in_memory import merged
from peftjob_testkit.builders import NOW, Object, applied, at, child_job, peftjob, snapshot, worker
from peftjob_testkit.decisions import result

JSON = st.recursive(
    st.booleans() | st.integers(0, 3) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4)


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_leads_from_one_object_to_the_other(before: Object, after: Object) -> None:
    patch = merge_patch(before, after)
    assert merged(before, patch) == after
    assert bool(patch) == (before != after)


def test_a_merge_patch_says_what_is_gone_and_nothing_that_stays() -> None:
    before = {"state": "Running", "activeSince": "t", "progress": {"step": 1, "loss": 2.0}, "conditions": [1]}
    after = {"state": "Running", "progress": {"step": 2}, "conditions": [1]}
    assert merge_patch(before, after) == {"activeSince": None, "progress": {"step": 2, "loss": None}}


@pytest.mark.parametrize(
    ("holds", "reason", "want_since"),
    [
        pytest.param(False, "Queued", at(-60), id="another reason: the same transition"),
        pytest.param(True, "Running", at(), id="another status: a new transition"),
    ],
)
def test_the_transition_time_moves_with_the_status_alone(holds: bool, reason: str, want_since: str) -> None:
    status = PeftJobStatus()
    status = with_condition(
        status, "WorkersReady", False, "Starting", "m", now=NOW - timedelta(seconds=60), generation=1
    )
    status = with_condition(status, "Suspended", False, "Resumed", "", now=NOW, generation=1)
    status = with_condition(status, "WorkersReady", holds, reason, "x" * 5000, now=NOW, generation=2)
    assert [condition.type for condition in status.conditions] == ["WorkersReady", "Suspended"]
    ready = status.conditions[0]
    assert (ready.last_transition_time, ready.reason, ready.observed_generation) == (want_since, reason, 2)
    assert len(ready.message) == 2048


@pytest.mark.parametrize(
    ("seconds", "want"),
    [(0, "0s"), (59.6, "1m0s"), (250, "4m10s"), (3600, "1h0m0s"), (90061, "25h1m1s"), (1e300, "277777h46m40s")],
)
def test_durations_for_people(seconds: float, want: str) -> None:
    assert human_duration(seconds) == want


def test_progress_without_a_step_is_never_worth_a_write() -> None:
    assert not progress_is_due(None, Progress(updated_at=at()), NOW)
    assert not progress_is_due(Progress(step=4, updated_at=at(-99)), Progress(updated_at=at()), NOW)
    assert progress_is_due(Progress(step=0, updated_at=at(-1)), Progress(step=1, updated_at=at()), NOW)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_to_a_bound(number: int, jitter: float) -> None:
    assert 0 <= pause(number, jitter) <= 750
    assert pause(number, jitter) <= pause(number + 1, jitter)
    assert (pause(number, jitter) == 0) == (number <= 1)


RECORDS = st.builds(
    Record,
    restarts=st.integers(0, 9),
    disruptions=st.integers(0, 50),
    restarts_without_progress=st.integers(0, 5),
    disruptions_without_progress=st.integers(0, 9),
    last_failure=st.none()
    | st.builds(
        Failure,
        reason=st.just("InternalError"),
        message=st.just("m"),
        step=st.none() | st.integers(0, 50),
        count=st.integers(1, 5),
        furthest_step=st.integers(0, 50),
        time=st.just(at(-9)),
    ),
)


@given(
    st.sampled_from(["Permanent", "Retryable", "Disruption"]),
    RECORDS,
    st.integers(0, 5),
    st.builds(Reach, st.none() | st.integers(1, 60), st.integers(0, 60), st.none() | st.integers(60, 9999)),
)
def test_restarts_and_disruptions_are_counted_apart(kind: Any, record: Record, limit: int, reach: Reach) -> None:
    verdict = judge(Cause(kind, Reason.INTERNAL_ERROR, "m"), record, limit, reach, jitter=0.5, time=at())
    new, counted = verdict.record, kind == "Retryable" and not verdict.failed
    assert new.restarts - record.restarts == counted
    assert new.disruptions - record.disruptions == (kind == "Disruption")
    assert new.restarts_without_progress in (record.restarts_without_progress + counted, counted)
    assert new.disruptions_without_progress <= record.disruptions_without_progress + (kind == "Disruption")
    if reach.furthest == reach.before:
        rows = record.disruptions_without_progress + (kind == "Disruption")
        assert new.disruptions_without_progress == rows, "no row ends without a step beyond all before"
    if kind == "Retryable":
        assert verdict.failed == (new.restarts_without_progress >= limit + (not verdict.failed))
    if verdict.failed and kind == "Disruption":
        assert verdict.reason == Reason.NO_PROGRESS
    assert (new.last_failure == record.last_failure) == (kind == "Disruption")


@dataclass(frozen=True)
class Fails:
    """Failures of one attempt after the other, each after a step, and what becomes of them with two restarts."""

    name: str
    steps: tuple[int | None, ...]
    want_counts: tuple[int, ...]
    """`restartsWithoutProgress` after each."""
    want_failed: bool
    want_told: str
    total: int = 1000
    reasons: tuple[Reason, ...] = (Reason.INTERNAL_ERROR,) * 9


LOOPS = [
    Fails("one failure is told as it is", (7,), (1,), False, "why"),
    Fails("a loop at one step ends", (7, 7, 7), (1, 2, 2), True,
          "failed 3 times after step 7: why (after 2 of at most 2 restarts in a row)"),
    Fails("a loop before any step ends", (None, None, None), (1, 2, 2), True,
          "failed 3 times before a step was finished: why (after 2 of at most 2 restarts in a row)"),
    Fails("a loop that gets a few steps on each time ends", (7, 12, 19), (1, 2, 2), True,
          "why (after 2 of at most 2 restarts in a row)"),
    Fails("ten steps beyond the last failure it is counted anew", (7, 7, 17), (1, 2, 1), False, "why"),
    Fails("of a long job, a hundredth of its steps", (7, 7, 26), (1, 2, 2), True,
          "why (after 2 of at most 2 restarts in a row)", total=2000),
    Fails("of a long job, counted anew", (7, 7, 27), (1, 2, 1), False, "why", total=2000),
    Fails("steps that are made again are no progress", (40, 30, 39), (1, 2, 2), True,
          "why (after 2 of at most 2 restarts in a row)"),
    Fails("another reason at the same step is no loop", (7, 7), (1, 2), False, "why",
          reasons=(Reason.INTERNAL_ERROR, Reason.STORAGE_UNAVAILABLE)),
]  # fmt: skip


@pytest.mark.parametrize("case", LOOPS, ids=[case.name for case in LOOPS])
def test_failures_in_a_row(case: Fails) -> None:
    record, furthest, counts = Record(), 0, []
    for step, reason in zip(case.steps, case.reasons, strict=False):
        reach = Reach(step, furthest, case.total)
        verdict = judge(Cause("Retryable", reason, "why"), record, 2, reach, jitter=0.5, time=at())
        record, furthest = verdict.record, reach.furthest
        counts.append(record.restarts_without_progress)
    assert tuple(counts) == case.want_counts
    assert (verdict.failed, verdict.message) == (case.want_failed, case.want_told)


def life() -> list[PeftJobStatus]:
    """Return the statuses of a job that goes its way."""
    job, statuses = peftjob(), [PeftJobStatus()]
    pods = [worker(0), worker(1)]
    done = [worker(0, exit_code=0, word=result()), worker(1, exit_code=0)]
    seen: list[tuple[list[Object], list[Object]]] = [
        ([], []),
        ([child_job()], [worker(0), worker(1, phase="Pending")]),
        ([child_job()], pods),
        ([child_job()], pods),
        ([child_job()], done),
        ([child_job(complete=True)], done),
        ([child_job(complete=True)], done),
    ]
    for jobs, children in seen:
        decision = decide(snapshot(job, jobs, children))
        job = applied(job, decision.status)
        statuses.append(decision.status)
    return statuses


def test_a_job_that_goes_its_way_costs_three_writes_and_three_events() -> None:
    statuses = life()
    changes = [(a, b) for a, b in itertools.pairwise(statuses) if a != b]
    assert len(changes) == 3
    told = [announcement for a, b in changes for announcement in announcements(a, b)]
    assert [(t.type, t.reason) for t in told] == [
        ("Normal", "Starting"),
        ("Normal", "Running"),
        ("Normal", "AdapterPublished"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "want"),
    [
        pytest.param(("False", "Starting"), ("False", "Unschedulable"), [("Warning", "Unschedulable")], id="a problem"),
        pytest.param(("False", "Unschedulable"), ("False", "Unschedulable"), [], id="the same problem"),
        pytest.param(("True", "Running"), ("False", "NodeLost"), [("Warning", "NodeLost")], id="a disruption"),
        pytest.param(
            ("True", "Running"), ("True", "WaitingForStorage"), [("Warning", "WaitingForStorage")], id="S3 is away"
        ),
        pytest.param(("True", "WaitingForStorage"), ("True", "Running"), [("Normal", "Running")], id="S3 is back"),
        pytest.param(("True", "Running"), ("False", "Finished"), [], id="the end is told by another condition"),
    ],
)
def test_events_about_workers(before: tuple[str, str], after: tuple[str, str], want: list[tuple[str, str]]) -> None:
    def status(word: tuple[str, str]) -> PeftJobStatus:
        return with_condition(
            PeftJobStatus(attempt=1), "WorkersReady", word[0] == "True", word[1], "m", now=NOW, generation=1
        )

    assert [(t.type, t.reason) for t in announcements(status(before), status(after))] == want


def test_the_first_checkpoint_is_an_event_and_no_other() -> None:
    none, first, second = (
        PeftJobStatus(attempt=1, checkpoint=step and Checkpoint(step=step, uri=f"s3://out/{step}", time="t"))
        for step in (None, 5, 10)
    )
    assert [(t.reason, "s3://out/5" in t.message) for t in announcements(none, first)] == [("Checkpointed", True)]
    assert announcements(first, second) == []


def test_an_event_is_about_the_peftjob_and_bounded() -> None:
    found = event(snapshot(peftjob()).metadata, Announcement("Warning", Reason.NODE_LOST, "x" * 9999))
    assert found["involvedObject"] == {
        "apiVersion": "peftjob.io/v1alpha1",
        "kind": "PeftJob",
        "name": "tune",
        "namespace": "default",
        "uid": "uid-tune",
    }
    assert len(found["message"]) == 1024
    assert found["metadata"]["name"] != event(snapshot(peftjob()).metadata, Announcement("Normal", "A", ""))["metadata"]
    json.dumps(found)


def test_settings_are_what_the_chart_sets() -> None:
    read = Settings.from_environment(
        {
            "PEFTJOB_OPERATOR_TRAINER_IMAGE": "trainer:1",
            "PEFTJOB_OPERATOR_WATCH_NAMESPACES": "b, a,,b",
            "PEFTJOB_OPERATOR_TRAINER_IMAGE_PULL_POLICY": "Always",
            "PEFTJOB_OPERATOR_HEALTH_PORT": "9000",
        }
    )
    assert read == Settings("trainer:1", "Always", ("a", "b"), 9000, 8081)
    assert Settings.from_environment({"PEFTJOB_OPERATOR_TRAINER_IMAGE": "t"}) == Settings("t")


@pytest.mark.parametrize(
    "environment",
    [{}, {"PEFTJOB_OPERATOR_TRAINER_IMAGE": "t", "PEFTJOB_OPERATOR_METRICS_PORT": "http"}],
    ids=["no image", "a port that is no number"],
)
def test_settings_that_cannot_work_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        Settings.from_environment(environment)
