"""Reading objects: whatever an API server, an older operator or a worker wrote, nothing raises and the end is kept."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peftjob_operator.observe import read_status
from peftjob_operator.restart import cause_of
from peftjob_operator.snapshot import ChildJob, Pod
from peftjob_testkit.builders import ADAPTER, NOW, at, child_job, condition, status, worker
from peftjob_testkit.decisions import result, word


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("Traceback (most recent call last)", id="no JSON"),
        pytest.param("[1]", id="no object"),
        pytest.param("[" * 4000, id="nested beyond reason"),
        pytest.param(result().replace("}", ""), id="cut off"),
        pytest.param(word("Finished", 10**30), id="a number that no exit code is"),
        pytest.param(word("has spaces and <b>", 64), id="a reason that is no word"),
        pytest.param(json.dumps({"reason": "Finished"}), id="parts missing"),
        pytest.param(result() + "x" * 20000, id="longer than any message"),
    ],
)
def test_a_last_word_that_cannot_be_trusted_is_none(text: str) -> None:
    assert Pod.of(worker(0, exit_code=0, word=text)).last_word is None


def test_numbers_of_a_last_word_that_are_not_finite_are_absent() -> None:
    text = word("Finished", 0, status={"step": 3, "loss": float("nan"), "metrics": {"a": float("inf"), "b": 1}})
    found = Pod.of(worker(0, exit_code=0, word=text)).last_word
    assert found is not None
    assert found.status is not None
    assert (found.status.step, found.status.loss, found.status.metrics) == (3, None, {"b": 1})


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_last_word_leads_to_a_cause(text: str) -> None:
    pod = Pod.of(worker(0, exit_code=70, word=text))
    assert cause_of(ChildJob.of(child_job(failed="x")), [pod], NOW).reason == "InternalError"


def test_a_pod_that_says_next_to_nothing() -> None:
    pod = Pod.of({"metadata": {"name": "p", "uid": "u"}})
    assert (pod.phase, pod.attempt, pod.index, pod.exit_code, pod.ended) == ("Pending", 0, None, None, False)


def test_labels_that_are_no_numbers() -> None:
    obj = worker(0)
    obj["metadata"]["labels"].update({"peftjob.io/attempt": "x", "batch.kubernetes.io/job-completion-index": "-1"})
    assert (Pod.of(obj).attempt, Pod.of(obj).index) == (0, None)


def test_null_lists_are_empty() -> None:
    obj = worker(0)
    obj["status"].update(conditions=None, containerStatuses=None, initContainerStatuses=None)
    assert not Pod.of(obj).running
    assert not ChildJob.of({**child_job(), "status": {"conditions": None}}).finished


@pytest.mark.parametrize("kind", ["Failed", "FailureTarget"])
def test_a_job_that_is_about_to_fail_starts_no_pods(kind: str) -> None:
    job = ChildJob.of(child_job(failed="why", failure_type=kind))
    assert (job.finished, job.failure) == (True, "why")


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"reason": "OutOfcpu", "message": "no room"}, "OutOfcpu: no room"),
        ({"reason": "UnexpectedAdmissionError"}, "UnexpectedAdmissionError"),
        ({}, ""),
    ],
)
def test_what_a_kubelet_says_about_a_pod_that_it_refused(fields: dict[str, str], want: str) -> None:
    assert Pod.of(worker(0, phase="Failed", **fields)).failure == want


END = condition("Succeeded", "True", "AdapterPublished")


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(status(3, END, state="Exploded"), id="a state of a later version"),
        pytest.param(status(3, {**END, "type": "Paused"}, END), id="a condition of a later version"),
        pytest.param(status(3, END, progress={"step": -1}), id="a number out of bounds"),
        pytest.param(status(3, END, adapter={**ADAPTER, "sha256": "?"}), id="a digest that is none"),
        pytest.param(status(3, END, plan=[], progress=7, restarts="two"), id="several things at once"),
    ],
)
def test_a_status_of_another_version_keeps_what_matters(stored: dict[str, object]) -> None:
    found = read_status(stored)
    ended = found.condition("Succeeded")
    assert ended is not None
    assert ended.status == "True"
    assert (found.attempt, found.start_time) == (3, at(-600))


@given(st.dictionaries(st.sampled_from(["attempt", "conditions", "state", "progress", "junk"]), st.none() | st.text()))
def test_any_status_can_be_read(stored: dict[str, object]) -> None:
    read_status(stored)
