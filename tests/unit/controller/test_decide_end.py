"""The end of a gang: success, lost results, failures that are final, retried or nobody's fault."""

from peftjob_api import ExitCode
from peftjob_testkit.builders import URI, at, child_job, condition, peftjob, running, status, worker
from peftjob_testkit.decisions import Case, every, result, word

FAILED = "Pod default/tune-1-1 has failed"
DISRUPTED = "Pod default/tune-1-1-x has condition DisruptionTarget matching FailJob rule at index 0"
SAVED = {"step": 8, "uri": f"{URI}/checkpoints/step-00000008-claim-1"}
TOUCHED = running(progress={"step": 3, "totalSteps": 9, "updatedAt": at(-5)})
AT_ONCE = {"retryAt": at()}
LOOP = {
    "reason": "InternalError", "message": "KeyError: 'x'", "step": 1203, "count": 2, "furthestStep": 1210,
    "time": at(-99),
}  # fmt: skip


def final(name: str, *pods: object, reason: str, words: str = "", job: object = None) -> Case:
    """Return the row of a failure that running again cannot help; what is left of the gang stays for its logs."""
    return Case(
        name,
        job or peftjob(running()),  # type: ignore[arg-type]
        [child_job(failed=FAILED)],
        pods,  # type: ignore[arg-type]
        want_state="Failed",
        want_conditions={"Failed": ("True", reason), "WorkersReady": ("False", "Finished")},
        want_words=[words],
        want_status={"completionTime": at(), "activeSeconds": 100, "activeSince": None, "retryAt": None},
    )


def again(
    name: str,
    *pods: object,
    reason: str,
    words: str = "",
    job: object = None,
    failed: str = FAILED,
    counts: tuple[int, int] = (0, 1),
    **want: object,
) -> Case:
    """Return the row of a gang that is followed by another one; `counts` are restarts and disruptions."""
    return Case(
        name,
        job or peftjob(running()),  # type: ignore[arg-type]
        [child_job(failed=failed)] if failed else [child_job()],
        pods,  # type: ignore[arg-type]
        want_actions=["delete tune-1"],
        want_state="Restarting",
        want_conditions={"WorkersReady": ("False", reason)},
        want_words=[words],
        want_status={"attempt": 1, "restarts": counts[0], "disruptions": counts[1], "activeSince": None, **want},
    )


SUCCESS = [
    Case(
        "a published adapter makes checkpoints obsolete",
        peftjob(running(checkpoint={**SAVED, "time": at(-60)})),
        [child_job(complete=True)],
        [worker(0, exit_code=0, word=result(status={"step": 9, "checkpoint": SAVED})), worker(1, exit_code=0)],
        want_state="Succeeded",
        want_conditions={"Succeeded": ("True", "AdapterPublished")},
        want_status={"checkpoint": None},
    ),
    Case(
        "a result from rank 0",
        peftjob(running()),
        [child_job(complete=True)],
        [
            worker(0, exit_code=0, word=result(status={"step": 9, "totalSteps": 9, "loss": 0.25, "metrics": {"a": 1}})),
            worker(1, exit_code=0),
        ],
        want_state="Succeeded",
        want_conditions={
            "Succeeded": ("True", "AdapterPublished"),
            "WorkersReady": ("False", "Finished"),
            "Failed": None,  # type: ignore[dict-item]
        },
        want_words=[URI, "ab" * 32],
        want_status={
            "adapter": {"uri": URI, "sha256": "ab" * 32, "sizeBytes": 7},
            "completionTime": at(),
            "activeSeconds": 100,
            "activeSince": None,
            "progress": {
                "step": 9,
                "totalSteps": 9,
                "display": "9/9",
                "loss": 0.25,
                "metrics": {"a": 1.0},
                "updatedAt": at(),
            },
        },
    ),
    Case(
        "where the adapter lies is told by the spec, not by a worker",
        peftjob(running()),
        [child_job(complete=True)],
        [worker(0, exit_code=0, word=result().replace(URI, "s3://somewhere/else")), worker(1, exit_code=0)],
        want_state="Succeeded",
        want_words=[URI],
    ),
    Case(
        "the operator was down from start to end",
        peftjob(status(1)),
        [child_job(complete=True)],
        [worker(0, exit_code=0, word=result()), worker(1, exit_code=0)],
        want_state="Succeeded",
    ),
    Case(
        "a job that succeeded while it was being suspended",
        peftjob(
            status(1, condition("Suspended", "True", "Suspended"), retryAt=at(-3), state="Suspended"), suspend=True
        ),
        [child_job(complete=True, deleting=True)],
        [worker(0, exit_code=0, word=result()), worker(1, exit_code=0)],
        want_state="Succeeded",
        want_conditions={"Suspended": ("False", "Resumed")},
    ),
    *(
        Case(
            name,
            peftjob(TOUCHED),
            [child_job(complete=True)],
            pods,
            want_actions=["delete tune-1"],
            want_state="Restarting",
            want_conditions={"WorkersReady": ("False", "ResultLost"), "Succeeded": None},  # type: ignore[dict-item]
            want_words=["one more gang"],
            want_status={"disruptions": 1, "disruptionsWithoutProgress": 1, "restarts": 0},
        )
        for name, pods in {
            "complete, but the pods are gone": [],
            "complete, but only rank 1 is left": [worker(1, exit_code=0)],
            "complete, but rank 0's last word is no JSON": [worker(0, exit_code=0, word="}{"), worker(1, exit_code=0)],
            "complete, but rank 0's last word names no adapter": [worker(0, exit_code=0, word=word("Finished", 0))],
            "complete, but rank 0's adapter has no digest": [
                worker(0, exit_code=0, word=result().replace("ab" * 32, "ab"))
            ],
        }.items()
    ),
    Case(
        "the gang after a lost result finds it",
        peftjob(running(2, disruptions=1)),
        [child_job(2, complete=True)],
        [worker(0, 2, exit_code=0, word=result()), worker(1, 2, exit_code=0)],
        want_state="Succeeded",
        want_status={"attempt": 2, "disruptions": 1},
    ),
    Case(
        "results that are lost again and again come to an end",
        peftjob(running(progress={"step": 5}, disruptions=9, disruptionsWithoutProgress=9)),
        [child_job(complete=True)],
        want_state="Failed",
        want_conditions={"Failed": ("True", "NoProgress")},
    ),
]

FINAL = [
    *(
        final(
            f"exit code {code:d} ({code.name})",
            worker(0, exit_code=71),
            worker(1, exit_code=code, word=word("DatasetEmpty", code, "no rows")),
            reason="DatasetEmpty",
            words="no rows",
        )
        for code in (ExitCode.BAD_CONFIG, ExitCode.BAD_DATA, ExitCode.INPUT_NOT_FOUND, ExitCode.NOT_PERMITTED)
    ),
    final(
        "permanent wins over a disruption of another pod",
        worker(0, exit_code=75, disruption="evicted", delete_at=-2),
        worker(1, exit_code=65, word=word("UnknownLabel", 65, "label 'x'")),
        reason="UnknownLabel",
    ),
    Case(
        "all pods ended before the Job says so: it is kept, for their logs",
        peftjob(running(), workers={"nodes": 1, "processesPerNode": 1}),
        [child_job()],
        [worker(0, exit_code=65, word=word("DatasetEmpty", 65, "no rows"))],
        want_state="Failed",
        want_conditions={"Failed": ("True", "DatasetEmpty")},
    ),
    final(
        "permanent without a last word",
        worker(0, exit_code=64),
        reason="InternalError",
        words="pod tune-1-0-x on node node-0 ended with exit code 64",
    ),
    final(
        "of two permanent ones, the one that says why",
        worker(0, exit_code=66),
        worker(1, exit_code=65, word=word("DatasetEmpty", 65, "no rows")),
        reason="DatasetEmpty",
    ),
    final("a reason that nobody knows", worker(0, exit_code=64, word=word("Hacked", 64)), reason="InternalError"),
    final(
        "a last word about another exit code",
        worker(0, exit_code=64, word=word("DatasetEmpty", 65)),
        reason="InternalError",
    ),
    final(
        "killed for memory",
        worker(0, exit_code=71),
        worker(1, exit_code=137, terminated={"reason": "OOMKilled"}, memory_limit="2Gi"),
        reason="OutOfMemory",
        words="pod tune-1-1-x on node node-1 was killed for using more than its limit of 2Gi",
    ),
    final(
        "killed for its node's memory",
        worker(1, exit_code=137, terminated={"reason": "OOMKilled"}),
        reason="OutOfMemory",
        words="the memory of its node",
    ),
    final(
        "retryable, but no restart is left",
        worker(0, exit_code=70, word=word("InternalError", 70, "KeyError")),
        job=peftjob(running(restarts=5, restartsWithoutProgress=3)),
        reason="InternalError",
        words="KeyError (after 3 of at most 3 restarts in a row)",
    ),
    final(
        "a crash loop is told with its step and its cause",
        worker(0, exit_code=71, word=word("LostPeer", 71, status={"step": 1203, "totalSteps": 9000})),
        worker(1, exit_code=70, word=word("InternalError", 70, "KeyError: 'x'")),
        job=peftjob(running(restarts=2, restartsWithoutProgress=2, furthestStep=1210, lastFailure=LOOP), maxRestarts=2),
        reason="InternalError",
        words="failed 3 times after step 1203: KeyError: 'x' (after 2 of at most 2 restarts in a row)",
    ),
    final(
        "retryable, and no restart wanted",
        worker(0, exit_code=69, word=word("StorageUnavailable", 69, "no answer")),
        job=peftjob(running(), maxRestarts=0),
        reason="StorageUnavailable",
        words="no answer",
    ),
    final(
        "the tenth disruption in a row without a step",
        worker(0, exit_code=75, disruption="drained", delete_at=-2),
        job=peftjob(running(disruptions=30, disruptionsWithoutProgress=9)),
        reason="NoProgress",
        words="10 disruptions in a row",
    ),
]

AGAIN = [
    again(
        "retryable: the first time at once",
        worker(0, exit_code=71),
        worker(1, exit_code=69, word=word("StorageUnavailable", 69, "no answer")),
        reason="StorageUnavailable",
        words="no answer",
        counts=(1, 0),
        **AT_ONCE,
    ),
    again(
        "an interrupted worker's last checkpoint is known before the next attempt is asked for",
        worker(0, exit_code=75, word=word("Interrupted", 75, status={"step": 8, "checkpoint": SAVED})),
        worker(1, exit_code=75),
        reason="Disrupted",
        counts=(0, 1),
        checkpoint={**SAVED, "time": at()},
    ),
    again(
        "retryable: the third time after a pause",
        worker(0, exit_code=70),
        job=peftjob(running(restarts=2, restartsWithoutProgress=2)),
        reason="InternalError",
        counts=(3, 0),
        retryAt=at(20),
    ),
    again(
        "a failure is kept with the step, as far as anybody told",
        worker(0, exit_code=71, word=word("LostPeer", 71, status={"step": 4, "totalSteps": 9})),
        worker(1, exit_code=70, word=word("InternalError", 70, "KeyError")),
        job=peftjob(TOUCHED),
        reason="InternalError",
        words="KeyError",
        counts=(1, 0),
        furthestStep=4,
        lastFailure={
            "reason": "InternalError",
            "message": "KeyError",
            "step": 4,
            "count": 1,
            "furthestStep": 4,
            "time": at(),
        },
    ),
    again(
        "a loop is told before it ends",
        worker(1, exit_code=70, word=word("InternalError", 70, "KeyError: 'x'")),
        job=peftjob(running(progress={"step": 1203}, restartsWithoutProgress=1, furthestStep=1203, lastFailure=LOOP)),
        reason="InternalError",
        words="failed 3 times after step 1203: KeyError: 'x'",
        counts=(1, 0),
        restartsWithoutProgress=2,
    ),
    again(
        "a failure well beyond the last one is counted anew",
        worker(1, exit_code=70, word=word("InternalError", 70, "KeyError: 'x'")),
        job=peftjob(
            running(
                progress={"step": 1310, "totalSteps": 10000},
                restarts=3,
                restartsWithoutProgress=3,
                furthestStep=1210,
                lastFailure=LOOP,
            )
        ),
        reason="InternalError",
        words="KeyError: 'x'",
        counts=(4, 0),
        restartsWithoutProgress=1,
        **AT_ONCE,
    ),
    again(
        "steps that were made before are no progress",
        worker(0, exit_code=75, delete_at=-2),
        job=peftjob({**TOUCHED, "furthestStep": 3, "disruptions": 3, "disruptionsWithoutProgress": 3}),
        reason="Disrupted",
        counts=(0, 4),
        disruptionsWithoutProgress=4,
        furthestStep=3,
    ),
    again(
        "a rank that says why comes before one that does not, whatever their order",
        worker(0, exit_code=1),
        worker(1, exit_code=70, word=word("InternalError", 70, "CUDA error")),
        reason="InternalError",
        words="CUDA error",
        counts=(1, 0),
    ),
    again(
        "the peer that the Job controller killed for it is no cause",
        worker(0, exit_code=137, delete_at=-1),
        worker(1, exit_code=70),
        reason="InternalError",
        words="pod tune-1-1-x",
        counts=(1, 0),
    ),
    again(
        "a container of the template fails before the trainer starts",
        worker(0, phase="Failed", initContainerStatuses=[{"name": "fetch", "state": {"terminated": {"exitCode": 3}}}]),
        reason="InternalError",
        words="its container fetch ended with exit code 3",
        counts=(1, 0),
    ),
    again(
        "a failure after a step ends the row of disruptions",
        worker(0, exit_code=70),
        job=peftjob(running(progress={"step": 4}, disruptionsWithoutProgress=7, disruptions=7)),
        reason="InternalError",
        counts=(1, 7),
        disruptionsWithoutProgress=0,
    ),
    again(
        "a drained pod is no failure",
        worker(0, exit_code=71),
        worker(1, exit_code=75, disruption="Eviction API: evicting", delete_at=-2),
        reason="Disrupted",
        words="pod tune-1-1-x on node node-1 was taken away: Eviction API",
        disruptionsWithoutProgress=1,
        **AT_ONCE,
    ),
    again(
        "a disruption wins over what merely failed",
        worker(0, exit_code=70, word=word("InternalError", 70, "broken pipe")),
        worker(1, exit_code=75, disruption="preempted", delete_at=-2),
        reason="Disrupted",
        words="preempted",
    ),
    again(
        "a disruption without a message",
        worker(1, exit_code=75, disruption="", delete_at=-2),
        reason="Disrupted",
    ),
    again(
        "a deleted pod, of which only 71 and 75 are left",
        worker(0, exit_code=71),
        worker(1, exit_code=75, delete_at=-2),
        reason="Disrupted",
        words="without a last word",
    ),
    again("a deleted pod that did not end in time", worker(0, exit_code=137, delete_at=-2), reason="Disrupted"),
    again("only lost peers", worker(0, exit_code=71), worker(1, exit_code=71), reason="Disrupted"),
    again(
        "evicted, and gone before anybody read it",
        worker(0, exit_code=71),
        failed=DISRUPTED,
        reason="Disrupted",
        words="DisruptionTarget",
    ),
    again("all pods gone", reason="Disrupted"),
    again(
        "a kubelet that came back without the container",
        worker(0, exit_code=137, terminated={"reason": "ContainerStatusUnknown"}, delete_at=-2),
        reason="Disrupted",
    ),
    again(
        "disruptions without a step back off",
        worker(0, exit_code=75, delete_at=-2),
        job=peftjob(running(disruptions=3, disruptionsWithoutProgress=3)),
        reason="Disrupted",
        counts=(0, 4),
        retryAt=at(40),
        disruptionsWithoutProgress=4,
    ),
    again(
        "a disruption after a step starts the row anew",
        worker(0, exit_code=75, delete_at=-2),
        job=peftjob({**TOUCHED, "disruptions": 9, "disruptionsWithoutProgress": 9}),
        reason="Disrupted",
        counts=(0, 10),
        disruptionsWithoutProgress=0,
        **AT_ONCE,
    ),
    again(
        "a step that only the last word tells of counts too",
        worker(0, exit_code=75, delete_at=-2, word=word("Interrupted", 75, status={"step": 2})),
        job=peftjob(running(disruptions=9, disruptionsWithoutProgress=9)),
        reason="Disrupted",
        counts=(0, 10),
        disruptionsWithoutProgress=0,
    ),
    again(
        "all pods ended before the Job controller says so",
        worker(0, exit_code=71),
        worker(1, exit_code=70, word=word("InternalError", 70, "KeyError")),
        failed="",
        reason="InternalError",
        counts=(1, 0),
    ),
]


@every([*SUCCESS, *FINAL, *AGAIN])
def test_end(case: Case) -> None:
    case.check()
