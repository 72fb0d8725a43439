"""The loop around the decisions: what the API server says, what it may be asked, and what happens in what order."""

import asyncio
from datetime import timedelta

import pytest
from peftjob_api import Reason, WorkerStatus
from peftjob_operator.kube import ApiError
from peftjob_operator.reconcile import name_conflict, refusal_of
from peftjob_operator.snapshot import Pod
from peftjob_testkit.api_in_memory import Fault
from peftjob_testkit.builders import NAME, Object
from peftjob_testkit.decisions import result
from peftjob_testkit.simulation import Process, World

QUOTA = 'jobs.batch "tune-1" is forbidden: exceeded quota: q, requested: count/jobs.batch=1'
RBAC = 'jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create resource "jobs" in API group "batch"'


@pytest.mark.parametrize(
    ("status", "message", "want"),
    [
        pytest.param(400, 'unknown field "spec.template.spec.contianers"', ("InvalidPodTemplate", True), id="misspelt"),
        pytest.param(422, "Job is invalid: restartPolicy", ("InvalidPodTemplate", True), id="impossible"),
        pytest.param(403, "denied by policy: images must be signed", ("InvalidPodTemplate", True), id="a policy"),
        pytest.param(403, QUOTA, ("QuotaExceeded", False), id="a quota"),
        pytest.param(403, RBAC, None, id="the operator's own missing right is not the user's fault"),
        pytest.param(
            403, "unable to create new content in namespace a because it is being terminated", None, id="ends"
        ),
        pytest.param(500, "etcdserver: request timed out", None, id="the server's own trouble"),
        pytest.param(429, "too many requests", None, id="too many requests"),
    ],
)
def test_what_a_refusal_means(status: int, message: str, want: tuple[str, bool] | None) -> None:
    refusal = refusal_of(1, ApiError(status, "", message))
    assert (None if refusal is None else (refusal.reason, refusal.permanent)) == want
    if refusal is not None:
        assert message in refusal.message


def test_a_strangers_object_and_a_leftover_of_the_same_name() -> None:
    stranger: Object = {"kind": "Service", "metadata": {"name": "tune-workers"}}
    assert name_conflict(1, stranger, NAME).reason is Reason.NAME_CONFLICT
    stranger["metadata"]["ownerReferences"] = [{"kind": "PeftJob", "name": NAME, "uid": "an older one"}]
    assert name_conflict(1, stranger, NAME).reason is Reason.STARTING


@pytest.fixture
def world() -> World:
    return World(1)


@pytest.fixture
def process(world: World) -> Process:
    return Process(world)


async def until(world: World, process: Process, state: str) -> None:
    for _ in range(20):
        process.tell()
        await process.reconcile()
        if world.status().get("state") == state:
            return
        world.run_job_controller()
        for pod in list(world.objects["pods"].values()):
            world.run_kubelet(pod, 0, result())
    pytest.fail(f"not {state}: {world.status()}")


async def test_from_nothing_to_done(world: World, process: Process) -> None:
    await until(world, process, "Succeeded")
    assert world.status()["attempt"] == 1


async def test_no_gang_beside_pods_that_no_watch_has_told_of_yet(world: World, process: Process) -> None:
    assert await process.reconcile() == "ok"
    process.tell()
    assert await process.reconcile() == "ok"
    world.run_job_controller()
    (job,) = world.objects["jobs"]
    world.remove("jobs", job)  # by somebody, in the background
    process.tell("jobs")
    assert world.living()
    assert await process.reconcile() == "retry"
    assert not world.objects["jobs"]


async def test_a_job_is_deleted_once_though_the_watch_is_behind(world: World, process: Process) -> None:
    await process.reconcile()
    process.tell()
    world.spec(suspend=True)
    process.tell("peftjobs")
    await process.reconcile()
    (job,) = world.objects["jobs"].values()
    version = job["metadata"]["resourceVersion"]
    calls = list(process.kube.calls)
    process.tell("peftjobs")
    await process.reconcile()
    assert process.kube.calls == calls, "something was asked or done again"
    assert job["metadata"]["resourceVersion"] == version


async def test_a_status_told_from_an_old_state_is_not_written(world: World, process: Process) -> None:
    world.spec(suspend=True)
    assert await process.reconcile() == "retry"
    assert not world.status()
    assert not world.objects["jobs"]


async def test_a_watch_that_is_stuck_costs_one_read(world: World, process: Process) -> None:
    await until(world, process, "Running")
    world.spec(maxRestarts=9)
    world.spec(suspend=True)  # the watch tells neither
    for pod in list(world.objects["pods"].values()):
        world.run_kubelet(pod, 70, "")
    process.tell("pods")
    before = len(process.kube.calls)
    assert await process.reconcile() == "retry"
    assert process.kube.calls[before:].count("GET peftjobs") == 1
    assert await process.reconcile() == "ok"
    assert world.status()["state"] == "Suspended"


async def test_a_deletion_that_met_a_conflict_is_tried_again(world: World, process: Process) -> None:
    await until(world, process, "Running")
    world.spec(suspend=True)
    process.tell()
    process.kube.faults[len(process.kube.calls) + 1] = Fault.CONFLICT
    await process.reconcile()
    (job,) = world.objects["jobs"].values()
    assert "deletionTimestamp" not in job["metadata"]
    await process.reconcile()
    (job,) = world.objects["jobs"].values()
    assert "deletionTimestamp" in job["metadata"]


async def test_parts_that_somebody_deleted_or_changed_come_back_while_a_gang_starts(
    world: World, process: Process
) -> None:
    await process.reconcile()
    world.run_job_controller()
    world.objects["services"].clear()
    (config,) = world.objects["configmaps"].values()
    world.write("configmaps", {**config, "data": {}})
    process.tell()
    await process.reconcile()
    world.wait(61)
    await process.reconcile()
    assert [len(world.objects[kind]) for kind in ("services", "configmaps")] == [1, 1]
    assert [found["data"] for found in world.objects["configmaps"].values()] == [config["data"]]


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_set_changes_nothing_of_a_deadline(hours: int) -> None:
    world = World(1, activeDeadlineSeconds=60)
    process = Process(world)
    await until(world, process, "Running")
    await process.reconcile()
    world.wait(20)
    world.now += timedelta(hours=hours)
    process.tell()
    await process.reconcile()
    assert world.status()["state"] == "Running"
    world.wait(41)
    await process.reconcile()
    assert world.status()["state"] == "Failed"
    assert world.status()["activeSeconds"] == 61


async def test_no_answer_from_the_api_server_changes_nothing(world: World, process: Process) -> None:
    process.kube.down = True
    assert await process.reconcile() == "no answer"
    process.kube.down = False
    await until(world, process, "Running")


async def test_a_missed_deletion_is_noticed_within_a_minute(world: World, process: Process) -> None:
    await until(world, process, "Running")
    for pod in list(world.objects["pods"]):
        world.remove("pods", pod)
    for job in list(world.objects["jobs"]):
        world.remove("jobs", job)
    process.tell(lose_deletions=True)
    await process.reconcile()
    assert world.status()["state"] == "Running"
    world.wait(61)
    await process.reconcile()
    assert world.status()["disruptions"] == 1


class Slow:
    """Rank 0, which takes its time."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked: list[str] = []

    async def status(self, namespace: str, pod: Pod) -> WorkerStatus:
        self.asked.append(pod.uid)
        await self.gate.wait()
        return WorkerStatus(step=len(self.asked), total_steps=9)


async def test_no_reconcile_waits_for_a_worker(world: World) -> None:
    slow = Slow()
    process = Process(world, workers=slow)
    await until(world, process, "Running")
    for _ in range(5):
        await process.reconcile()
    assert len(slow.asked) == 1, "asked again before it answered"
    assert "progress" not in world.status()
    slow.gate.set()
    await asyncio.sleep(0.01)
    assert process.woken == 1
    await process.reconcile()
    assert world.status()["progress"]["display"] == "1/9"
    world.wait(11)
    await process.reconcile()
    await asyncio.sleep(0.01)
    await process.reconcile()
    assert world.status()["progress"]["display"] == "2/9"


async def test_what_rank_0_of_an_earlier_gang_said_is_not_told_of_this_one(world: World) -> None:
    slow = Slow()
    slow.gate.set()
    process = Process(world, workers=slow)
    await until(world, process, "Running")
    await asyncio.sleep(0.01)
    (pod,) = world.living()
    world.run_kubelet(pod, 71, "")
    for _ in range(4):
        world.run_job_controller()
        process.tell()
        await process.reconcile()
    assert world.status()["attempt"] == 2
    slow.gate.clear()
    world.wait(5)
    await until(world, process, "Running")
    await asyncio.sleep(0)
    assert "progress" not in world.status()
    assert len(set(slow.asked)) == 2


async def test_pods_that_a_queue_took_away_do_not_end_the_next_gang(world: World, process: Process) -> None:
    await until(world, process, "Running")
    (job,) = world.objects["jobs"].values()
    world.write("jobs", {**job, "spec": {**job["spec"], "suspend": True}})
    world.run_job_controller()
    process.tell()
    await process.reconcile()
    assert world.status()["state"] == "Queued"
    await process.reconcile()
    for _ in range(2):
        for pod in list(world.objects["pods"].values()):
            world.run_kubelet(pod, 0, "")  # ends with 75, and goes
    process.tell()
    (job,) = world.objects["jobs"].values()
    world.write("jobs", {**job, "spec": {**job["spec"], "suspend": False}})
    process.tell()
    await process.reconcile()
    assert world.status()["state"] == "Starting"
    await until(world, process, "Succeeded")
    assert (world.status()["attempt"], world.status()["disruptions"]) == (1, 1)
