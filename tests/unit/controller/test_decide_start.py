"""The first look at a PeftJob, the start of a gang, and what keeps it from being complete."""

from peftjob_api import Reason
from peftjob_operator.decide import MAX_ATTEMPTS
from peftjob_operator.snapshot import Refusal
from peftjob_testkit.builders import at, child_job, condition, peftjob, running, status, worker
from peftjob_testkit.decisions import Case, every

STARTING = condition("WorkersReady", "False", "Starting", "attempt 1: 2 worker pods asked for")
UNREADY = ("False", "Starting")


def waits(name: str, reason: str, *words: str, pods: object, **seen: object) -> Case:
    """Return the row of a gang that is not complete, and the reason that it must give."""
    return Case(
        name,
        peftjob(status(1, STARTING)),
        [child_job()],
        pods,  # type: ignore[arg-type]
        seen=seen,
        want_state="Starting",
        want_conditions={"WorkersReady": ("False", reason)},
        want_words=words,
        want_requeue=(0.5, 10),
    )


def pulling(reason: str, message: str = "") -> list[dict[str, object]]:
    return [worker(0), worker(1, waiting=(reason, message))]


CASES = [
    Case(
        "an attempt after a checkpoint says from where it goes on",
        peftjob(status(1, retryAt=at(-1), checkpoint={"step": 8, "uri": "s3://out", "time": at(-60)})),
        want_actions=["create 2"],
        want_state="Starting",
        want_conditions={"WorkersReady": UNREADY},
        want_words=["attempt 2: 2 worker pods asked for, to go on after step 8"],
    ),
    Case(
        "a new PeftJob gets its first attempt, written down before it is made",
        peftjob(),
        want_actions=["create 1"],
        want_state="Starting",
        want_conditions={"WorkersReady": UNREADY},
        want_status={"attempt": 1, "startTime": at(), "observedGeneration": 1, "retryAt": None},
        want_words=["2 worker pods"],
    ),
    Case(
        "an operator that died between the status and the Job makes the same attempt",
        peftjob(status(1, STARTING)),
        want_actions=["create 1"],
        want_no_write=True,
    ),
    Case(
        "an operator that died before making a later attempt makes that one",
        peftjob(status(4, STARTING, restarts=1)),
        want_actions=["create 4"],
        want_status={"attempt": 4, "startTime": at(-600), "restarts": 1},
    ),
    Case(
        "a Job without pods yet: one look a while later, and no write",
        peftjob(status(1, STARTING)),
        [child_job()],
        want_no_write=True,
        want_requeue=(5, 10),
    ),
    Case(
        "one of two workers runs: no write for it",
        peftjob(status(1, STARTING)),
        [child_job()],
        [worker(0), worker(1, phase="Pending")],
        want_no_write=True,
    ),
    Case(
        "all workers run",
        peftjob(status(1, STARTING)),
        [child_job()],
        [worker(0), worker(1)],
        want_state="Running",
        want_conditions={"WorkersReady": ("True", "Running")},
        want_status={"activeSince": at()},
        want_requeue=(5, 5),
    ),
    Case(
        "one worker is done before the last one runs: the gang was complete",
        peftjob(status(1, STARTING)),
        [child_job()],
        [worker(0, exit_code=0), worker(1)],
        want_state="Running",
    ),
    waits("image missing", "ImagePullFailed", "node-1", "trainer.image", pods=pulling("ErrImagePull", "not found")),
    waits("image pull backs off", "ImagePullFailed", pods=pulling("ImagePullBackOff")),
    waits(
        "Secret missing",
        "SecretNotFound",
        's3-keys" not found',
        "create it",
        pods=pulling("CreateContainerConfigError", 'secret "s3-keys" not found'),
    ),
    waits(
        "a key of the Secret missing",
        "SecretNotFound",
        pods=pulling("CreateContainerConfigError", "couldn't find key AWS_ACCESS_KEY_ID in Secret default/s3"),
    ),
    waits(
        "a command that is not there",
        "InvalidPodTemplate",
        "spec.workers.podTemplate",
        pods=pulling("RunContainerError", 'exec: "trian": not found'),
    ),
    waits("a container being created is no reason", "Starting", pods=pulling("ContainerCreating")),
    waits(
        "no node has what the pods ask for",
        "Unschedulable",
        "Insufficient nvidia.com/gpu",
        pods=[worker(i, node=None, unschedulable="0/3 nodes: Insufficient nvidia.com/gpu") for i in (0, 1)],
    ),
    waits(
        "only one of two workers has a node",
        "PartlyScheduled",
        "1 of 2 workers",
        pods=[worker(0), worker(1, node=None, unschedulable="0/3 nodes: Insufficient cpu")],
    ),
    waits(
        "a claim that is not there",
        "VolumeNotReady",
        'persistentvolumeclaim "data" not found',
        pods=[worker(i, node=None, unschedulable='persistentvolumeclaim "data" not found') for i in (0, 1)],
    ),
    waits(
        "a quota leaves no room for the pods",
        "QuotaExceeded",
        "free quota",
        pods=[],
        warnings=("FailedCreate: pods is forbidden: exceeded quota: compute",),
    ),
    waits(
        "a policy of the namespace refuses the pods",
        "InvalidPodTemplate",
        pods=[],
        warnings=('FailedCreate: Error creating: pods "x" is forbidden: violates PodSecurity "restricted"',),
    ),
    waits(
        "a volume cannot be mounted",
        "VolumeNotReady",
        pods=[worker(0, phase="Pending"), worker(1, phase="Pending")],
        warnings=('FailedMount: MountVolume.SetUp failed for volume "pvc-0": no such share',),
    ),
    waits("an Event that means nothing", "Starting", pods=[], warnings=("BackOff: something else",)),
    Case(
        "a part of the gang holds its node for less than the time-out",
        peftjob(status(1, STARTING)),
        [child_job()],
        [worker(0, scheduled=-595), worker(1, node=None)],
        want_state="Starting",
        want_requeue=(5, 5),
    ),
    Case(
        "a part of the gang gives its node back after the time-out, which costs no restart",
        peftjob(status(1, STARTING)),
        [child_job()],
        [worker(0, scheduled=-600), worker(1, node=None, unschedulable="0/2 nodes")],
        seen={"jitter": 0.5},
        want_actions=["delete tune-1"],
        want_state="Restarting",
        want_conditions={"WorkersReady": ("False", "StartTimeout")},
        want_words=["1 of 2 workers", "600 s"],
        want_status={"retryAt": at(45), "restarts": None, "disruptions": None},
    ),
    Case(
        "a gang that is whole waits for its images as long as it takes",
        peftjob(status(1, STARTING)),
        [child_job()],
        [worker(0, scheduled=-9000), worker(1, scheduled=-9000, waiting=("ImagePullBackOff", ""))],
        want_state="Starting",
    ),
    Case(
        "a gang of which nothing has a node waits as long as it takes",
        peftjob(status(1, STARTING)),
        [child_job()],
        [worker(i, node=None, unschedulable="0/2 nodes") for i in (0, 1)],
        seen={"now": 90000},
        want_state="Starting",
    ),
    Case(
        "what the API server refuses for good fails the job",
        peftjob(status(1, STARTING)),
        seen={"refusal": Refusal(1, Reason.INVALID_POD_TEMPLATE, 'unknown field "contianers"', permanent=True)},
        want_state="Failed",
        want_conditions={"Failed": ("True", "InvalidPodTemplate"), "WorkersReady": ("False", "Finished")},
        want_words=["contianers"],
        want_status={"completionTime": at()},
    ),
    Case(
        "what the API server may allow later is tried again",
        peftjob(status(1, STARTING)),
        seen={"refusal": Refusal(1, Reason.NAME_CONFLICT, "Service tune-workers", permanent=False)},
        want_actions=["create 1"],
        want_state="Starting",
        want_conditions={"WorkersReady": ("False", "NameConflict")},
        want_requeue=(5, 10),
    ),
    Case(
        "leftovers of an earlier PeftJob are looked for more often",
        peftjob(status(1, STARTING)),
        seen={"refusal": Refusal(1, Reason.STARTING, "Job tune-1 is being deleted", permanent=False)},
        want_actions=["create 1"],
        want_requeue=(1, 2),
    ),
    Case(
        "a refusal of an earlier attempt says nothing about this one",
        peftjob(status(2, STARTING)),
        seen={"refusal": Refusal(1, Reason.INVALID_POD_TEMPLATE, "old", permanent=True)},
        want_actions=["create 2"],
        want_state="Starting",
    ),
    Case(
        "a spec that is not valid fails and names the field",
        peftjob(workers={"nodes": 0}),
        want_state="Failed",
        want_conditions={"Failed": ("True", "InvalidSpec")},
        want_words=["spec.workers.nodes", "create it anew"],
    ),
    Case(
        "a spec that is not valid any more ends the gang that runs",
        peftjob(running(), workers={"nodes": 0}),
        [child_job()],
        [worker(0), worker(1)],
        want_actions=["delete tune-1"],
        want_status={"activeSeconds": 100, "activeSince": None},
    ),
    Case(
        "a status that somebody cleared is told again from the children",
        peftjob(),
        [child_job(3)],
        [worker(0, 3), worker(1, 3)],
        want_state="Running",
        want_conditions={"WorkersReady": ("True", "Running")},
        want_status={"attempt": 3, "startTime": at(), "activeSince": at()},
    ),
    Case(
        "there is an end to attempts",
        peftjob(status(MAX_ATTEMPTS, retryAt=at(-1))),
        want_state="Failed",
        want_conditions={"Failed": ("True", "NoProgress")},
    ),
    Case(
        "a PeftJob that is being deleted is left to the garbage collector",
        peftjob(running(), metadata={"deletionTimestamp": at()}),
        [child_job()],
        want_no_write=True,
    ),
]


@every(CASES)
def test_start(case: Case) -> None:
    case.check()
