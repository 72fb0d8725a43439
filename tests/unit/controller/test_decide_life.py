"""A gang at work (progress, plan, deadline), one that is held back (suspend, queues), and a job that is over."""

from peftjob_api import WorkerStatus
from peftjob_testkit.builders import ADAPTER, at, child_job, condition, peftjob, running, status, worker
from peftjob_testkit.decisions import Case, every

GANG = [worker(0), worker(1)]
PLAN = {"shardGroup": "Full", "ranks": 2, "baseParameters": 10, "baseBytesPerRank": 20, "trainableParameters": 1}
RESOLVED = {
    "method": "LoRA",
    "rank": 16,
    "precision": "FP32",
    "maxLength": 64,
    "batchSize": 16,
    "microBatchSize": 8,
    "learningRate": 0.001,
    "epochs": 3.0,
}
SAVED = {"step": 20, "uri": f"{ADAPTER['uri']}/checkpoints/step-00000020-claim-1"}
DATA = {
    "trainExamples": 90,
    "validationExamples": 10,
    "truncatedExamples": 1,
    "skippedRows": 1,
    "skippedReasons": ["why"],
}
SUSPENDED = condition("Suspended", "True", "Suspended", "spec.suspend is true: no workers, until it is false")
HELD = condition("WorkersReady", "False", "Suspended", "spec.suspend is true: no workers, until it is false")
QUEUED = condition("Suspended", "True", "Queued", "a queue holds tune-1 back")
WAITS = condition("WorkersReady", "False", "Queued", "a queue holds tune-1 back")
AWAY = condition("WorkersReady", "True", "WaitingForStorage", "training goes on, but its checkpoints wait")
OVER = condition("WorkersReady", "False", "Finished", "the job is over")


def said(**fields: object) -> dict[str, object]:
    return {"worker": WorkerStatus.model_validate(fields)}


def wrote(step: int | None, ago: float) -> dict[str, object]:
    return {"step": step, "updatedAt": at(-ago)}


WORK = [
    Case(
        "nothing new: no write",
        peftjob(running()),
        [child_job()],
        GANG,
        want_no_write=True,
        want_requeue=(5, 5),
    ),
    Case(
        "the first step is told at once, with all that people ask for",
        peftjob(running()),
        [child_job()],
        GANG,
        seen=said(step=1, totalSteps=48, loss=1.23456, epoch=0.1, tokensPerSecond=812.34, etaSeconds=250.4, attempt=1),
        want_status={
            "progress": {
                "step": 1,
                "totalSteps": 48,
                "display": "1/48",
                "epoch": 0.1,
                "loss": 1.2346,
                "tokensPerSecond": 812.3,
                "etaSeconds": 250.0,
                "eta": "4m10s",
                "updatedAt": at(),
            }
        },
    ),
    Case(
        "a later step within ten seconds is not",
        peftjob(running(progress=wrote(1, 9))),
        [child_job()],
        GANG,
        seen=said(step=2),
        want_no_write=True,
    ),
    Case(
        "but after ten",
        peftjob(running(progress=wrote(1, 10))),
        [child_job()],
        GANG,
        seen=said(step=2),
        want_status={"progress": wrote(2, 0)},
    ),
    Case(
        "the same step again costs no write",
        peftjob(running(progress=wrote(1, 100))),
        [child_job()],
        GANG,
        seen=said(step=1),
        want_no_write=True,
    ),
    Case(
        "a trainer that loads costs no write, however often it is asked",
        peftjob(running()),
        [child_job()],
        GANG,
        seen=said(phase="Loading"),
        want_no_write=True,
    ),
    Case(
        "metrics of the last evaluation stay until the next",
        peftjob(running(progress={**wrote(1, 20), "metrics": {"accuracy": 0.5}})),
        [child_job()],
        GANG,
        seen=said(step=2),
        want_status={"progress": {**wrote(2, 0), "metrics": {"accuracy": 0.5}}},
    ),
    Case(
        "numbers that no status can hold are cut",
        peftjob(running()),
        [child_job()],
        GANG,
        seen=said(step=2**40, totalSteps=2**62, etaSeconds=-5, loss=float("nan")),
        want_status={
            "progress": {
                "step": 2**31 - 1,
                "totalSteps": 2**31 - 1,
                "display": f"{2**40}/{2**62}",
                "updatedAt": at(),
            }
        },
    ),
    Case(
        "what a worker of another attempt says is not taken",
        peftjob(running()),
        [child_job()],
        GANG,
        seen=said(step=5, attempt=2),
        want_no_write=True,
    ),
    Case("the plan", peftjob(running()), [child_job()], GANG, seen=said(plan=PLAN), want_status={"plan": PLAN}),
    Case(
        "by what is trained",
        peftjob(running(plan=PLAN)),
        [child_job()],
        GANG,
        seen=said(resolved=RESOLVED, data=DATA),
        want_status={"plan": PLAN, "resolved": RESOLVED, "data": DATA},
    ),
    Case(
        "a checkpoint, by the operator's clock",
        peftjob(running()),
        [child_job()],
        GANG,
        seen=said(checkpoint=SAVED),
        want_status={"checkpoint": {**SAVED, "time": at()}},
    ),
    Case(
        "the same checkpoint again: no write",
        peftjob(running(checkpoint={**SAVED, "time": at(-60)})),
        [child_job()],
        GANG,
        seen=said(checkpoint=SAVED),
        want_no_write=True,
    ),
    Case(
        "a checkpoint that lies elsewhere is none",
        peftjob(running()),
        [child_job()],
        GANG,
        seen=said(checkpoint={**SAVED, "uri": "s3://elsewhere/checkpoints/step-00000020-claim-1"}),
        want_no_write=True,
    ),
    Case(
        "the adapter is being published",
        peftjob(running()),
        [child_job()],
        GANG,
        seen=said(phase="Publishing"),
        want_state="Publishing",
        want_conditions={"WorkersReady": ("True", "Running")},
    ),
    Case(
        "a worker that says nothing for a moment still publishes",
        peftjob(running(state="Publishing")),
        [child_job()],
        GANG,
        want_no_write=True,
    ),
    Case(
        "a finished adapter that waits for its output",
        peftjob(running()),
        [child_job()],
        GANG,
        seen=said(
            phase="Publishing", waiting={"what": "Adapter", "since": 1782900000.4, "message": "s3://a: no answer"}
        ),
        want_state="Publishing",
        want_conditions={"WorkersReady": ("True", "WaitingForStorage")},
        want_words=["the adapter is finished and waits", "since 2026-07-01T10:00:00Z", "s3://a: no answer"],
    ),
    Case(
        "checkpoints that wait, since a time that no calendar has",
        peftjob(running()),
        [child_job()],
        GANG,
        seen=said(phase="Training", waiting={"what": "Checkpoints", "since": 1e300, "message": "no room is left"}),
        want_state="Running",
        want_conditions={"WorkersReady": ("True", "WaitingForStorage")},
        want_words=["training goes on, but its checkpoints wait for the output: no room is left"],
    ),
    Case(
        "the output is back",
        peftjob(status(1, AWAY, activeSince=at(-100), state="Running")),
        [child_job()],
        GANG,
        seen=said(phase="Training"),
        want_state="Running",
        want_conditions={"WorkersReady": ("True", "Running")},
    ),
    Case(
        "a worker that ends first leaves the gang running",
        peftjob(running()),
        [child_job()],
        [worker(0, exit_code=0), worker(1)],
        want_no_write=True,
    ),
]

DEADLINE = [
    Case(
        "the look comes with the deadline",
        peftjob(running(), activeDeadlineSeconds=102),
        [child_job()],
        GANG,
        want_state="Running",
        want_requeue=(2, 2),
    ),
    Case(
        "over in one attempt",
        peftjob(running(), activeDeadlineSeconds=100),
        [child_job()],
        GANG,
        want_actions=["delete tune-1"],
        want_state="Failed",
        want_conditions={"Failed": ("True", "DeadlineExceeded")},
        want_words=["100 s", "spec.activeDeadlineSeconds"],
        want_status={"activeSeconds": 100},
    ),
    Case(
        "over in several attempts together",
        peftjob(running(3, since=-40, activeSeconds=60), activeDeadlineSeconds=100),
        [child_job(3)],
        [worker(0, 3), worker(1, 3)],
        want_state="Failed",
        want_actions=["delete tune-3"],
        want_status={"activeSeconds": 100},
    ),
    Case(
        "time in a queue does not count",
        peftjob(status(1, QUEUED, WAITS, activeSeconds=60), activeDeadlineSeconds=100),
        [child_job(suspended=True)],
        seen={"now": 9000},
        want_state="Queued",
    ),
    Case(
        "time suspended does not count",
        peftjob(status(1, SUSPENDED, HELD, activeSeconds=60, retryAt=at(-1)), activeDeadlineSeconds=100, suspend=True),
        seen={"now": 9000},
        want_state="Suspended",
    ),
    Case(
        "time until the gang is complete does not count",
        peftjob(status(1, activeSeconds=60), activeDeadlineSeconds=100),
        [child_job()],
        [worker(0, scheduled=-500), worker(1, scheduled=-500, phase="Pending")],
        want_state="Starting",
    ),
    Case(
        "a deadline that was raised",
        peftjob(running(), activeDeadlineSeconds=200, generation=2),
        [child_job()],
        GANG,
        want_state="Running",
    ),
]

HOLD = [
    Case(
        "suspended before the start: nothing is made",
        peftjob(suspend=True),
        want_state="Suspended",
        want_conditions={"Suspended": ("True", "Suspended"), "WorkersReady": ("False", "Suspended")},
        want_status={"attempt": None, "startTime": None, "retryAt": None},
    ),
    Case(
        "resumed before the start: the first attempt",
        peftjob({"conditions": [SUSPENDED, HELD], "state": "Suspended"}),
        want_actions=["create 1"],
        want_conditions={"Suspended": ("False", "Resumed")},
        want_status={"attempt": 1},
    ),
    Case(
        "suspended while running: the Job goes, the time is accounted for",
        peftjob(running(), suspend=True, generation=2),
        [child_job()],
        GANG,
        want_actions=["delete tune-1"],
        want_state="Suspended",
        want_conditions={"Suspended": ("True", "Suspended")},
        want_status={"activeSeconds": 100, "activeSince": None, "retryAt": at(), "disruptions": None},
    ),
    Case(
        "suspended for a while: nothing to do, nothing to write",
        peftjob(status(1, HELD, SUSPENDED, state="Suspended", retryAt=at(-9)), suspend=True),
        want_no_write=True,
    ),
    Case(
        "suspended, and a worker's node does not answer",
        peftjob(status(1, HELD, SUSPENDED, state="Suspended", retryAt=at(-90)), suspend=True),
        [child_job(deleting=True)],
        [worker(1, delete_at=-31)],
        want_actions=["kill tune-1-1-x"],
        want_requeue=(1, 10),
    ),
    Case(
        "suspended after the attempt was written down, before its Job was made",
        peftjob(status(1, condition("WorkersReady", "False", "Starting")), suspend=True),
        want_state="Suspended",
        want_status={"retryAt": None, "attempt": 1},
    ),
    Case(
        "suspended while backing off: the pause goes on",
        peftjob(status(1, restarts=2, retryAt=at(40), state="Restarting"), suspend=True),
        want_state="Suspended",
        want_status={"retryAt": at(40), "restarts": 2},
    ),
    Case(
        "resumed while its pause lasts: says when it goes on",
        peftjob(status(1, SUSPENDED, HELD, state="Suspended", retryAt=at(40))),
        want_state="Restarting",
        want_conditions={"Suspended": ("False", "Resumed"), "WorkersReady": ("False", "Restarting")},
        want_words=[f"attempt 2 starts at {at(40)}"],
        want_requeue=(40, 40),
    ),
    Case(
        "resumed while the old workers end: waits for them",
        peftjob(status(1, SUSPENDED, HELD, state="Suspended", retryAt=at(-9))),
        [child_job(deleting=True)],
        [worker(0, delete_at=20)],
        want_state="Restarting",
        want_conditions={"Suspended": ("False", "Resumed")},
        want_words=["when all earlier workers have ended"],
    ),
    Case(
        "resumed: the next attempt",
        peftjob(status(1, SUSPENDED, HELD, state="Suspended", retryAt=at(-9))),
        want_actions=["create 2"],
        want_state="Starting",
        want_conditions={"Suspended": ("False", "Resumed")},
        want_status={"attempt": 2, "restarts": None},
    ),
    Case(
        "a queue has not admitted the Job",
        peftjob(status(1)),
        [child_job(suspended=True)],
        want_state="Queued",
        want_conditions={"Suspended": ("True", "Queued"), "WorkersReady": ("False", "Queued")},
        want_status={"disruptions": None},
    ),
    Case(
        "a queue admitted it",
        peftjob(status(1, QUEUED, WAITS, state="Queued")),
        [child_job()],
        want_state="Starting",
        want_conditions={"Suspended": ("False", "Resumed"), "WorkersReady": ("False", "Starting")},
    ),
    Case(
        "a queue took the Job back: a disruption, and no failure",
        peftjob(running()),
        [child_job(suspended=True)],
        [worker(0, delete_at=20), worker(1, delete_at=20)],
        want_state="Queued",
        want_conditions={"Suspended": ("True", "Queued")},
        want_status={"disruptions": 1, "activeSince": None, "activeSeconds": 100, "attempt": 1},
    ),
    Case(
        "a queue took the Job back, and a node does not answer",
        peftjob(status(1, QUEUED, WAITS, state="Queued", disruptions=1)),
        [child_job(suspended=True)],
        [worker(0, delete_at=-30)],
        want_actions=["kill tune-1-0-x"],
        want_status={"disruptions": 1},
    ),
    Case(
        "admitted again: pods that the queue took away are not the gang's",
        peftjob(status(1, QUEUED, WAITS, state="Queued", disruptions=1)),
        [child_job()],
        [worker(0, exit_code=75, delete_at=-3), worker(1, exit_code=75, delete_at=-3)],
        seen={"earlier": frozenset({"uid-pod-1-0", "uid-pod-1-1"})},
        want_state="Starting",
        want_status={"disruptions": 1},
    ),
    Case(
        "suspended while it was queued",
        peftjob(status(1, QUEUED, WAITS, state="Queued"), suspend=True),
        [child_job(suspended=True)],
        want_actions=["delete tune-1"],
        want_state="Suspended",
        want_conditions={"Suspended": ("True", "Suspended")},
    ),
]

DONE = status(
    1,
    condition("Succeeded", "True", "AdapterPublished"),
    OVER,
    state="Succeeded",
    completionTime=at(-60),
    adapter=ADAPTER,
)
DEAD = status(1, condition("Failed", "True", "DatasetEmpty"), OVER, state="Failed", completionTime=at(-60))

AFTERWARDS = [
    Case(
        "done, children there", peftjob(DONE), [child_job(complete=True)], [worker(0, exit_code=0)], want_no_write=True
    ),
    Case("done, children deleted: they are not made again", peftjob(DONE), want_no_write=True),
    Case("failed, children deleted", peftjob(DEAD), want_no_write=True),
    Case("done, then suspended", peftjob(DONE, suspend=True), want_no_write=True),
    Case("failed, then edited", peftjob(DEAD, maxRestarts=9, generation=5), want_no_write=True),
    Case("done, and not valid any more", peftjob(DONE, workers={"nodes": 0}), want_no_write=True),
    Case(
        "failed, but the operator died before it stopped the workers",
        peftjob(DEAD),
        [child_job()],
        GANG,
        want_actions=["delete tune-1"],
        want_no_write=True,
        want_requeue=(1, 10),
    ),
    Case(
        "failed, and a worker's node does not answer",
        peftjob(DEAD),
        [child_job(deleting=True)],
        [worker(0, delete_at=-30)],
        want_actions=["kill tune-1-0-x"],
        want_no_write=True,
    ),
    Case(
        "to be kept for a while", peftjob(DONE, ttlSecondsAfterFinished=100), want_no_write=True, want_requeue=(40, 40)
    ),
    Case("its time to live is over", peftjob(DONE, ttlSecondsAfterFinished=60), want_actions=["delete the PeftJob"]),
    Case("no time to live at all", peftjob(DEAD, ttlSecondsAfterFinished=0), want_actions=["delete the PeftJob"]),
]


@every([*WORK, *DEADLINE, *HOLD, *AFTERWARDS])
def test_life(case: Case) -> None:
    case.check()
