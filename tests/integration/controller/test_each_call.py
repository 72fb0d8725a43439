"""The real operator and a real API server, and a fault between them at each call of a life, one after the other.

In CI the operator is killed before and after each call of the plainest life, from its first write on; with
PEFTJOB_ALL_FAULTS=1 every call of every life, and of the operator's start, meets every fault.
"""

import contextlib
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from peftjob_cluster import fake_nodes
from peftjob_cluster.control_plane import ControlPlane
from peftjob_testkit.api_in_memory import Fault
from peftjob_testkit.fault_proxy import FaultProxy, Loop
from peftjob_testkit.forked_operator import ForkedOperator, forkserver, kubeconfig
from peftjob_testkit.lives import timeless
from peftjob_testkit.loopback import Namespace, failure
from peftjob_testkit.operator import OPERATOR_USER, Operator
from peftjob_testkit.waiting import wait_for

ALL = bool(os.environ.get("PEFTJOB_ALL_FAULTS"))
_STILL_LOOKS = 15
KILLS = (Fault.DIES_BEFORE, Fault.DIES_AFTER)
AT_ONCE = 8
AWAY_SECONDS = 180 if ALL else 6
NAME = "tune"


@dataclass(frozen=True)
class Life:
    """What a user does with one PeftJob."""

    name: str
    user: Callable[[Namespace], None] = lambda ns: None
    fails: bool = False
    spec: Mapping[str, Any] = field(default_factory=dict)
    want: str | None = "Succeeded"


def resumes(ns: Namespace) -> None:
    ns.wait_state(NAME, "Suspended", 120)
    ns.patch(NAME, suspend=False)


def deletes(ns: Namespace) -> None:
    ns.wait(NAME, "started", lambda job: "attempt" in job.get("status", {}), 120)
    ns.api.delete(f"{ns.peftjobs}/{NAME}")


def failing() -> dict[str, Any]:
    """Return a template whose pods end with an error that is worth a retry."""
    said = failure("InternalError", 70, "it broke")  # else the pod's name is told, which is another one each time
    return {
        "metadata": {
            "annotations": {fake_nodes.EXIT_CODE: "70", fake_nodes.MESSAGE: said, fake_nodes.RUN_TIME: "100ms"}
        }
    }


LIVES = [
    Life("plain"),
    Life("restarted", fails=True, spec={"maxRestarts": 1}, want="Failed"),
    Life("resumed", user=resumes, spec={"suspend": True}),
    Life("deleted", user=deletes, want=None),
]


@dataclass(frozen=True)
class Outcome:
    """What a life came to."""

    status: dict[str, Any]
    children: list[str]
    pods: int
    events: Counter[tuple[str, str, str]]
    calls: list[str]


class Stage:
    """Where lives are lived, several at once."""

    def __init__(self, plane: ControlPlane, folder: Path, forks: ForkServerContext, loop: Loop) -> None:
        self.plane, self.folder, self._forks, self._loop = plane, folder, forks, loop
        plane.kubeconfig(OPERATOR_USER, ["system:serviceaccounts", "system:authenticated"])
        self._numbers = itertools.count(1)

    def operator(self, namespace: str) -> tuple[ForkedOperator, FaultProxy]:
        """Start an operator for one namespace, behind a proxy; wait until it works."""
        pki = self.plane.folder / "pki"
        (certificate,) = pki.glob("user-system-serviceaccount-peftjob*.crt")
        proxy = FaultProxy(
            self._loop, self.plane.endpoints.api_url, pki / "ca.crt", certificate, certificate.with_suffix(".key")
        )
        proxy.start()
        config = kubeconfig(self.folder / f"{namespace}-{next(self._numbers)}.json", proxy.port)
        operator = ForkedOperator(self._forks, config, namespace)
        operator.start()
        try:
            operator.wait()
        except TimeoutError:
            operator.stop()
            proxy.stop()
            raise
        return operator, proxy

    def live(self, life: Life, name: str, faults: Mapping[int, Fault] = {}) -> Outcome:
        """Live a life, with faults at some of the operator's calls, counted from the PeftJob's creation on."""
        ns = Namespace(self.plane, name)
        operator, proxy = self.operator(name)
        try:
            proxy.calls, proxy.faults, proxy.kill = [], dict(faults), operator.kill
            template = failing() if life.fails else None
            ns.submit(NAME, nodes=1, run_time="100ms", template=template, **life.spec)

            def over() -> bool:
                job = ns.find(f"{ns.peftjobs}/{NAME}")
                return job is None if life.want is None else (job or {}).get("status", {}).get("state") == life.want

            with kept_alive(operator):
                life.user(ns)
                wait_for(f"{name}: the end", over, 120, 0.05, lambda: operator.log.read_text()[-4000:])
                self._settle(ns, life)
            job = ns.find(f"{ns.peftjobs}/{NAME}") or {}
            events = Counter(ns.events(NAME))
            return Outcome(
                timeless(job.get("status", {})), ns.child_jobs(NAME), len(ns.pods(NAME)), events, list(proxy.calls)
            )
        finally:
            operator.stop()
            proxy.stop()

    @staticmethod
    def _settle(ns: Namespace, life: Life) -> None:
        """Wait for the last Events, and for the garbage collector."""
        if life.want is None:
            empty: list[bool] = []  # a Job that was being made while its owner went is there for a moment

            def is_left_alone() -> bool:
                empty.append(not ns.child_jobs(NAME) and not ns.pods(NAME))
                return len(empty) > _STILL_LOOKS and all(empty[-_STILL_LOOKS:])

            wait_for("nothing left", is_left_alone, 60, 0.2)
        time.sleep(0.5)


@contextlib.contextmanager
def kept_alive(operator: ForkedOperator) -> Iterator[None]:
    """Start an operator again whenever it has died, as the kubelet does."""
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.05):
            if not operator.is_alive:
                operator.stop()
                operator.start()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.fixture(scope="module")
def stage(plane: ControlPlane, operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Return the stage. The module's own operator, which would see to all namespaces, is away."""
    operator.kill()
    loop = Loop()
    try:
        yield Stage(plane, tmp_path_factory.mktemp("operators"), forkserver(), loop)
    finally:
        loop.stop()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("life", LIVES if ALL else LIVES[:1], ids=lambda life: life.name)
def test_each_call_of_a_life_meets_each_fault(stage: Stage, life: Life) -> None:
    want = stage.live(life, life.name)
    assert want.status.get("state") == life.want
    first = 0 if ALL else next(n for n, call in enumerate(want.calls) if call.startswith("PATCH"))  # else it starts
    plans = [(number, fault) for number in range(first, len(want.calls)) for fault in (Fault if ALL else KILLS)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        outcomes = threads.map(lambda plan: stage.live(life, named(life, *plan), dict([plan])), plans)
        for (number, fault), found in zip(plans, outcomes, strict=True):
            where = f"call {number} ({want.calls[number]}): {fault.value}"
            assert found.status == want.status, where
            assert (found.children, found.pods) == (want.children, want.pods), where
            # How far one that is deleted comes depends on the moment.
            assert found.events <= (want.events if life.want else Counter(set(found.events))), where
    print(f"{life.name}: {len(want.calls)} calls, {len(plans)} lives")
    twice = sorted(where for where, times in created_jobs(stage.plane, life.name).items() if times > 1)
    assert twice == []


def named(life: Life, number: int, fault: Fault) -> str:
    """Return the name of the namespace in which a life meets a fault."""
    return f"{life.name}-{number}-{fault.name}".lower().replace("_", "-")


def created_jobs(plane: ControlPlane, life: str) -> Counter[tuple[str, str]]:
    """Return how often which Job was made in the namespaces of a life."""
    return Counter(
        (event["objectRef"]["namespace"], event["objectRef"]["name"])
        for event in plane.audit_events()
        if event["verb"] == "create"
        and event["user"]["username"] == OPERATOR_USER
        and event.get("objectRef", {}).get("resource") == "jobs"
        and event["objectRef"]["namespace"].startswith(life)
        and event["responseStatus"]["code"] == 201
    )


@pytest.mark.parametrize("mode", ["refuse", "unavailable", "busy", *(["hang"] if ALL else [])])
def test_an_api_server_that_is_away(stage: Stage, mode: Any) -> None:
    """The workers end meanwhile; the operator is the same process after it as before."""
    ns = Namespace(stage.plane, f"away-{mode}")
    operator, proxy = stage.operator(ns.name)
    try:
        ns.submit(NAME)
        ns.running(NAME, timeout=60)
        before = operator.pid
        proxy.set(mode)
        ns.finish(NAME)
        ns.submit("meanwhile", nodes=1, run_time="100ms")
        time.sleep(AWAY_SECONDS)
        assert ns.job(NAME)["status"]["state"] == "Running"
        assert (operator.is_alive, operator.pid) == (True, before)
        proxy.set("pass")
        began = time.monotonic()
        # A connection that is half open is given up after 70 s of silence.
        for name in (NAME, "meanwhile"):
            status = ns.wait_state(name, "Succeeded", 120)["status"]
            assert (status["attempt"], status.get("disruptions", 0), status.get("restarts", 0)) == (1, 0, 0)
        print(f"{mode} for {AWAY_SECONDS} s: went on {time.monotonic() - began:.1f} s after it")
        assert operator.pid == before
    finally:
        operator.stop()
        proxy.stop()


def test_two_operators_by_mistake(stage: Stage) -> None:
    ns = Namespace(stage.plane, "two")
    both = [stage.operator(ns.name) for _ in range(2)]
    try:
        names = [ns.submit(f"job-{number}", run_time="300ms") for number in range(4)]
        ns.submit("sick", nodes=1, template=failing(), maxRestarts=1)
        for name in names:
            status = ns.wait_state(name, "Succeeded", 120)["status"]
            assert (status["attempt"], status.get("disruptions", 0), status.get("restarts", 0)) == (1, 0, 0)
            assert len(ns.pods(name)) == 2
            assert max(Counter(ns.events(name)).values()) == 1
        status = ns.wait_state("sick", "Failed", 120)["status"]
        assert (status["attempt"], status["restarts"]) == (2, 1)
        assert set(created_jobs(stage.plane, "two").values()) == {1}
    finally:
        for operator, proxy in both:
            operator.stop()
            proxy.stop()
