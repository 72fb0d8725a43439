"""Whatever happens between two API calls, and whatever the watches have not told yet: one gang at a time, one end."""

import asyncio
import os
import random
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from peftjob_testkit.api_in_memory import Crash, Fault
from peftjob_testkit.builders import ADAPTER, Object
from peftjob_testkit.decisions import result, word
from peftjob_testkit.simulation import Process, World

MAX_RESTARTS = 2


class Life(RuleBasedStateMachine):
    """One PeftJob, an operator that dies and comes back, and a cluster that does what clusters do."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.highest = 0
        self.end: tuple[bool, bool] | None = None

    @initialize(nodes=st.integers(1, 2))
    def begin(self, nodes: int) -> None:
        self.world = World(nodes, maxRestarts=MAX_RESTARTS)
        self.process = Process(self.world, self.on_create)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.finish()
        finally:
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    def on_create(self, job: Object) -> None:
        """Whenever a Job is made: nothing of an earlier one may be left, and the job may not be over."""
        assert self.end is None, "a finished PeftJob made workers"
        assert not self.world.objects["jobs"], "two Jobs at once"
        assert not self.world.living(), "workers of an earlier gang are alive"
        attempt = int(job["metadata"]["labels"]["peftjob.io/attempt"])
        assert attempt == self.world.status().get("attempt", attempt), "made before it was written down"

    # --- the operator ---------------------------------------------------------------------------------------------
    @rule(codes=st.lists(st.sampled_from([0, 0, 0, 70, 71, 75]), min_size=4, max_size=4), rounds=st.integers(1, 4))
    def all_goes_its_way(self, codes: list[int], rounds: int) -> None:
        for _ in range(rounds):
            self.world.run_node_controller()
            self.world.run_job_controller()
            for pod, code in zip(list(self.world.objects["pods"].values()), codes, strict=False):
                self.world.run_kubelet(pod, code, result() if code == 0 else word("InternalError", code))
            self.process.tell()
            self.loop.run_until_complete(self.process.reconcile())

    @rule()
    def reconcile(self) -> None:
        self.loop.run_until_complete(self.process.reconcile())

    @rule(call=st.integers(0, 5), fault=st.sampled_from(Fault))
    def reconcile_and_meet_a_fault(self, call: int, fault: Fault) -> None:
        kube = self.process.kube
        kube.faults = {len(kube.calls) + call: fault}
        try:
            self.loop.run_until_complete(self.process.reconcile())
        except Crash:
            pass
        finally:
            kube.faults = {}
            if fault in (Fault.DIES_BEFORE, Fault.DIES_AFTER):
                self.process.end()
                self.process = Process(self.world, self.on_create)

    @rule(seed=st.integers(0, 99))
    def two_operators_reconcile_at_once(self, seed: int) -> None:
        chance = random.Random(seed)
        both = [self.process, Process(self.world, self.on_create)]
        for process in both:
            process.kube.turns = lambda: chance.randrange(3)

        async def reconcile() -> None:
            await asyncio.gather(*(process.reconcile() for process in both))

        self.loop.run_until_complete(reconcile())
        self.process.kube.turns = lambda: 0
        both[1].end()

    @rule()
    def reconcile_without_an_api_server(self) -> None:
        self.process.kube.down = True
        self.loop.run_until_complete(self.process.reconcile())
        self.process.kube.down = False

    @rule(kind=st.sampled_from(["peftjobs", "jobs", "pods", None]))
    def watches_tell(self, kind: str | None) -> None:
        self.process.tell(kind)

    @rule(kind=st.sampled_from(["jobs", "pods"]))
    def a_watch_begins_anew_and_loses_deletions(self, kind: str) -> None:
        self.process.tell(kind, lose_deletions=True)

    @rule()
    def the_watches_begin_anew(self) -> None:
        self.process.list_anew()

    @rule(seed=st.integers(0, 99))
    def the_watches_tell_in_disorder(self, seed: int) -> None:
        self.process.tell_in_disorder(random.Random(seed))

    @rule(hours=st.sampled_from([-1, 1]))
    def the_clocks_are_set(self, hours: int) -> None:
        self.world.now += timedelta(hours=hours)

    @rule(seconds=st.sampled_from([1, 5, 30, 70, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.wait(seconds)

    # --- the cluster ----------------------------------------------------------------------------------------------
    @rule()
    def job_controller(self) -> None:
        self.world.run_job_controller()

    @rule(pick=st.integers(0, 3), code=st.sampled_from([0, 0, 0, 70, 71, 65]))
    def kubelet(self, pick: int, code: int) -> None:
        pods = list(self.world.objects["pods"].values())
        if pods:
            message = result() if code == 0 else word("InternalError", code)
            self.world.run_kubelet(pods[pick % len(pods)], code, message)

    @rule(pick=st.integers(0, 3))
    def a_pod_is_evicted(self, pick: int) -> None:
        if pods := self.world.living():
            self.world.delete_pod(pods[pick % len(pods)])

    @rule(node=st.sampled_from(["node-0", "node-1"]))
    def a_node_dies(self, node: str) -> None:
        self.world.dead_nodes ^= {node}
        self.world.run_node_controller()

    @rule(suspend=st.booleans())
    def a_user_suspends_or_resumes(self, suspend: bool) -> None:
        self.world.spec(suspend=suspend)

    @rule(restarts=st.integers(1, MAX_RESTARTS))
    def a_user_changes_what_may_change(self, restarts: int) -> None:
        self.world.spec(maxRestarts=restarts)

    @precondition(lambda self: self.end is None)
    @rule()
    def somebody_clears_the_status(self) -> None:
        self.world.write("peftjobs", {**self.world.job, "status": {}})
        self.highest = 0

    @rule()
    def somebody_takes_the_owners_away(self) -> None:
        for kind in ("jobs", "services", "configmaps"):
            for obj in list(self.world.objects[kind].values()):
                self.world.write(kind, {**obj, "metadata": {**obj["metadata"], "ownerReferences": []}})

    @rule(kind=st.sampled_from(["services", "configmaps"]))
    def somebody_deletes_a_part(self, kind: str) -> None:
        for uid in list(self.world.objects[kind]):
            self.world.remove(kind, uid)

    @rule()
    def somebody_deletes_the_job(self) -> None:
        for uid, job in list(self.world.objects["jobs"].items()):
            if "deletionTimestamp" not in job["metadata"]:  # in the background: pods go afterwards
                for pod in self.world.living():
                    self.world.delete_pod(pod)
                self.world.remove("jobs", uid)

    @rule(suspend=st.booleans())
    def a_queue_takes_or_gives(self, suspend: bool) -> None:
        for job in list(self.world.objects["jobs"].values()):
            busy = any("deletionTimestamp" in pod["metadata"] for pod in self.world.objects["pods"].values())
            if not job["status"].get("conditions") and not (busy and not suspend):
                self.world.write("jobs", {**job, "spec": {**job["spec"], "suspend": suspend}})

    # --- what must hold -------------------------------------------------------------------------------------------
    @invariant()
    @precondition(lambda self: hasattr(self, "world"))
    def holds(self) -> None:
        status = self.world.status()
        assert status.get("attempt", 0) >= self.highest, "attempts went back"
        self.highest = status.get("attempt", 0)
        assert status.get("restartsWithoutProgress", 0) <= MAX_RESTARTS
        end = self.world.holds("Succeeded"), self.world.holds("Failed")
        assert end != (True, True)
        if self.end is not None:
            assert end == self.end, "a finished PeftJob changed its mind"
        elif any(end):
            self.end = end
        if end[0]:
            assert self.world.published
            assert status["adapter"] == ADAPTER
        assert len({pod["metadata"]["labels"]["peftjob.io/attempt"] for pod in self.world.living()}) <= 1

    def finish(self) -> None:
        """When nothing goes wrong any more, the job ends, and nothing runs afterwards."""
        self.world.spec(suspend=False)
        for _ in range(150):
            for job in list(self.world.objects["jobs"].values()):
                if job["spec"].get("suspend"):
                    self.world.write("jobs", {**job, "spec": {**job["spec"], "suspend": False}})
            self.process.list_anew()
            self.loop.run_until_complete(self.process.reconcile())
            self.holds()
            self.world.run_node_controller()
            self.world.run_job_controller()
            for pod in list(self.world.objects["pods"].values()):
                self.world.run_kubelet(pod, 0, result())
            self.world.wait(11)
            if self.end and not self.world.living():
                break
        assert self.end is not None, f"no end: {self.world.status()}"
        assert not self.world.living(), "workers outlived their job"


EXAMPLES = int(os.environ.get("PEFTJOB_EXAMPLES", "60"))
Life.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
TestLife = pytest.mark.timeout(120 + 2 * EXAMPLES)(Life.TestCase)
