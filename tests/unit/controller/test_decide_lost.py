"""Lost nodes, Jobs that somebody deleted, and what must be gone before the next attempt starts."""

import pytest
from peftjob_testkit.builders import at, child_job, condition, peftjob, running, status, worker
from peftjob_testkit.decisions import Case, every, word

FAILED = "Pod default/tune-1-1 has failed"
TOUCHED = running(progress={"step": 3, "totalSteps": 9, "updatedAt": at(-5)})

LOST = [
    Case(
        "a pod whose node does not answer is given up and deleted by force",
        peftjob(TOUCHED),
        [child_job()],
        [worker(0), worker(1, delete_at=-30, disruption="unreachable")],
        want_actions=["delete tune-1", "kill tune-1-1-x"],
        want_state="Restarting",
        want_conditions={"WorkersReady": ("False", "NodeLost")},
        want_words=["node node-1 does not answer"],
        want_status={"disruptions": 1, "restarts": 0},
    ),
    Case(
        "a moment before that it is waited for",
        peftjob(TOUCHED),
        [child_job()],
        [worker(0), worker(1, delete_at=-27)],
        want_state="Running",
        want_requeue=(1, 3),
    ),
    Case(
        "a permanent cause wins over a lost node",
        peftjob(running()),
        [child_job(failed=FAILED)],
        [worker(0, exit_code=65, word=word("DatasetEmpty", 65)), worker(1, delete_at=-40)],
        want_actions=["kill tune-1-1-x"],
        want_conditions={"Failed": ("True", "DatasetEmpty")},
    ),
    Case(
        "a gang of which some pods still end is judged when all have",
        peftjob(running()),
        [child_job(failed=FAILED, failure_type="FailureTarget")],
        [worker(0, exit_code=70), worker(1, delete_at=10)],
        want_no_write=True,
        want_requeue=(1, 2),
    ),
    Case(
        "while what is left of an attempt ends, the condition keeps its cause",
        peftjob(
            status(1, condition("WorkersReady", "False", "NodeLost", "node n"), retryAt=at(-5), state="Restarting")
        ),
        [child_job(deleting=True)],
        [worker(1, delete_at=-40)],
        want_actions=["kill tune-1-1-x"],
        want_no_write=True,
        want_requeue=(1, 2),
    ),
    *(
        Case(
            f"no attempt beside {what}",
            peftjob(status(1, retryAt=at(-5), state="Restarting")),
            jobs,
            pods,
            want_actions=actions,
            want_status={"attempt": 1},
        )
        for what, jobs, pods, actions in (
            ("a Job that is left", [child_job(failed=FAILED)], [], ["delete tune-1"]),
            ("a Job that is being deleted", [child_job(deleting=True)], [], []),
            ("a pod whose Job is gone", [], [worker(0)], []),
            ("a pod that is waiting", [], [worker(0, node=None)], []),
        )
    ),
    Case(
        "when nothing is left and the pause is over, the next attempt starts",
        peftjob(
            status(1, condition("WorkersReady", "False", "NodeLost"), retryAt=at(-5), progress={"step": 4}),
        ),
        pods=[worker(0, exit_code=71)],
        want_actions=["create 2"],
        want_state="Starting",
        want_status={"attempt": 2, "retryAt": None, "progress": None, "startTime": at(-600)},
    ),
    Case(
        "not before the pause is over",
        peftjob(status(1, retryAt=at(7), state="Restarting")),
        want_no_write=True,
        want_requeue=(7, 7),
    ),
    Case(
        "somebody deleted the Job of a gang that ran",
        peftjob(TOUCHED),
        want_state="Restarting",
        want_conditions={"WorkersReady": ("False", "Disrupted")},
        want_words=["deleted by somebody else"],
        want_status={"disruptions": 1, "retryAt": at()},
    ),
    Case(
        "somebody is deleting the Job of a gang that runs",
        peftjob(TOUCHED),
        [child_job(deleting=True)],
        [worker(0, delete_at=20), worker(1, delete_at=20)],
        want_state="Restarting",
        want_status={"disruptions": 1},
    ),
    Case(
        "somebody deleted the Job of a gang that had failed for good",
        peftjob(running()),
        pods=[worker(0, exit_code=65, word=word("DatasetEmpty", 65))],
        want_state="Failed",
        want_conditions={"Failed": ("True", "DatasetEmpty")},
    ),
    Case(
        "somebody is deleting the Job of a gang that never ran: the same attempt, afterwards",
        peftjob(status(1)),
        [child_job(deleting=True)],
        [worker(0, delete_at=20)],
        want_state="Restarting",
        want_status={"attempt": 1, "disruptions": None, "retryAt": None},
        want_words=["when all earlier workers have ended"],
    ),
    Case(
        "pods of a Job of the same attempt that is gone are not the gang's",
        peftjob(status(1)),
        [child_job(uid="second")],
        [worker(0, exit_code=75, delete_at=-9), worker(1, exit_code=75, delete_at=-9)],
        want_state="Starting",
    ),
]


@every(LOST)
def test_lost(case: Case) -> None:
    case.check()


@pytest.mark.parametrize("seconds", [-31, -30, -29])
def test_lost_is_thirty_seconds_after_the_deletion_time(seconds: int) -> None:
    case = Case(
        "", peftjob(running()), [child_job()], [worker(0), worker(1, delete_at=seconds)],
        want_state="Restarting" if seconds <= -30 else "Running",
        want_actions=["delete tune-1", "kill tune-1-1-x"] if seconds <= -30 else [],
    )  # fmt: skip
    case.check()
