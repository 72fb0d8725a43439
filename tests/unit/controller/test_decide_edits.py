"""What somebody else changed: children that lost their owner, a status that was cleared, set back or made up."""

import copy

from peftjob_testkit.builders import Object, at, child_job, condition, peftjob, running, snapshot, status, worker
from peftjob_testkit.decisions import Case, every, result, word

GANG = [worker(0), worker(1)]
FAILED = "Pod default/tune-2-0 has failed"
STARTING = condition("WorkersReady", "False", "Starting", "attempt 1: 2 worker pods asked for")


def disowned() -> Object:
    job = copy.deepcopy(child_job())
    del job["metadata"]["ownerReferences"]
    return job


CASES = [
    Case(
        "a Job without an owner, which nobody would collect, is ended, and the gang counts as taken away",
        peftjob(running()),
        [disowned()],
        GANG,
        want_actions=["delete tune-1"],
        want_state="Restarting",
        want_conditions={"WorkersReady": ("False", "Disrupted")},
        want_status={"disruptions": 1},
    ),
    Case(
        "it is ended after the end of the PeftJob, too",
        peftjob(status(1, condition("Failed", "True", "InternalError"), state="Failed", completionTime=at(-5))),
        [disowned()],
        want_actions=["delete tune-1"],
        want_no_write=True,
    ),
    Case(
        "a status that was set back to an earlier attempt",
        peftjob(running(2)),
        [child_job(5)],
        [worker(0, 5), worker(1, 5)],
        want_state="Running",
        want_status={"attempt": 5},
    ),
    Case(
        "a status that was set back, of a gang that found a later attempt's claim: the next one is later still",
        peftjob(running(2)),
        [child_job(2, failed=FAILED)],
        [worker(0, 2, exit_code=75, word=word("Superseded", 75, "a newer gang works there", claimedAttempt=7))],
        want_actions=["delete tune-2"],
        want_state="Restarting",
        want_conditions={"WorkersReady": ("False", "Superseded")},
        want_words=["a newer gang works there; the PeftJob's status was set back, so the next attempt is 8"],
        want_status={"attempt": 7, "retryAt": at(), "disruptions": 1, "restarts": 0},
    ),
    Case(
        "a gang that says so of an attempt that was before it is no more than interrupted",
        peftjob(running(2)),
        [child_job(2, failed=FAILED)],
        [worker(0, 2, exit_code=75, word=word("Superseded", 75, "its claim is gone", claimedAttempt=1))],
        want_actions=["delete tune-2"],
        want_conditions={"WorkersReady": ("False", "Disrupted")},
        want_status={"attempt": 2},
    ),
    Case(
        "more attempts than there can be",
        peftjob(running(2)),
        [child_job(2, failed=FAILED)],
        [worker(0, 2, exit_code=75, word=word("Superseded", 75, "so it says", claimedAttempt=2**31))],
        want_actions=["delete tune-2"],
        want_status={"attempt": 9999},
    ),
    Case(
        "a status that was cleared while the attempt still starts",
        peftjob(),
        [child_job(2)],
        [worker(0, 2)],
        want_state="Starting",
        want_status={"attempt": 2, "startTime": at()},
    ),
    Case(
        "a success that was cleared is told again while its pods are there",
        peftjob(),
        [child_job(complete=True)],
        [worker(0, exit_code=0, word=result()), worker(1, exit_code=0)],
        want_state="Succeeded",
    ),
    Case(
        "a success that was cleared costs one gang once they are gone, which finds the adapter",
        peftjob(),
        want_actions=["create 1"],
        want_state="Starting",
        want_status={"attempt": 1},
    ),
    Case(
        "a time to try again that no pause comes to",
        peftjob(status(1, retryAt="9999-12-31T00:00:00Z")),
        want_actions=["create 2"],
        want_status={"retryAt": None},
    ),
    Case(
        "a pause that is over within an hour that a clock was set back is not waited for",
        peftjob(status(1, retryAt=at(3600))),
        want_actions=["create 2"],
    ),
    Case(
        "the longest pause there is",
        peftjob(status(1, retryAt=at(749))),
        want_requeue=(749, 749),
    ),
    Case(
        "times that are none",
        peftjob({**running(), "activeSince": "soon"}, activeDeadlineSeconds=50),
        [child_job()],
        GANG,
        want_state="Running",
        want_status={"activeSince": at()},
    ),
    Case(
        "a gang that was complete in the future",
        peftjob(running(since=3600), activeDeadlineSeconds=50),
        [child_job()],
        GANG,
        want_state="Running",
        want_requeue=(5, 5),
    ),
    Case(
        "a gang that has started for a while gets its Service and ConfigMap made sure of",
        peftjob(status(1, STARTING)),
        [child_job()],
        [worker(0), worker(1, phase="Pending")],
        seen={"resynced": True},
        want_actions=["restore"],
    ),
    Case(
        "one that runs does not need them any more",
        peftjob(running()),
        [child_job()],
        GANG,
        seen={"resynced": True},
        want_no_write=True,
    ),
]


@every(CASES)
def test_edits(case: Case) -> None:
    case.check()


def test_an_owner_among_others_is_one() -> None:
    job = copy.deepcopy(child_job())
    job["metadata"]["ownerReferences"].insert(0, {"kind": "Other", "name": "x", "uid": "x"})
    assert not snapshot(peftjob(), [job]).jobs[0].disowned
