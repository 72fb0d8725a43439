"""A PeftJob's life on a real API server: what each event of it does to children, status and Events."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from peftjob_cluster.control_plane import ControlPlane
from peftjob_cluster.kube import ApiError
from peftjob_operator.settings import RIGHTS
from peftjob_testkit.kubectl import condition
from peftjob_testkit.loopback import Namespace, failure
from peftjob_testkit.operator import OPERATOR_USER
from peftjob_testkit.waiting import wait_for

QUOTA = {"metadata": {"name": "q"}, "spec": {"hard": {"count/jobs.batch": "0"}}}


@pytest.fixture(scope="module")
def ns(namespace: Callable[[str], Namespace]) -> Namespace:
    """Return the namespace of most tests, in which what takes long has begun."""
    found = namespace("life")
    found.api.create(f"{found.path}/services", {"metadata": {"name": "taken-workers"}, "spec": {"clusterIP": "None"}})
    found.api.create(f"{found.path}/configmaps", {"metadata": {"name": "noted-run"}, "data": {"a": "b"}})
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "c"}]}
    found.api.create(found.jobs, {"metadata": {"name": "busy-1"}, "spec": {"suspend": True, "template": {"spec": pod}}})
    for name in ("taken", "noted", "busy"):
        found.submit(name)
    return found


@pytest.fixture(scope="module")
def full(namespace: Callable[[str], Namespace]) -> Namespace:
    """Return a namespace with a PeftJob for which its quota leaves no room."""
    found = namespace("full")
    found.api.create(f"{found.path}/resourcequotas", QUOTA)
    wait_for(
        "the quota", lambda: found.api.get(f"{found.path}/resourcequotas/q").get("status", {}).get("hard"), 30, 0.1
    )
    found.submit("squeezed")
    return found


def failed(ns: Namespace, name: str, timeout: float = 30) -> dict[str, Any]:
    return condition(ns.wait_state(name, "Failed", timeout), "Failed")


def test_from_create_to_adapter(ns: Namespace, full: Namespace) -> None:
    ns.submit("good", activeDeadlineSeconds=3600)
    pods = ns.running("good")
    assert [pod["spec"]["nodeName"] for pod in pods] != []
    assert pods[0]["spec"]["subdomain"] == "good-workers"
    ns.finish("good")
    job = ns.wait_state("good", "Succeeded")
    status = job["status"]
    conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert conditions == {"WorkersReady": ("False", "Finished"), "Succeeded": ("True", "AdapterPublished")}
    assert all(c["observedGeneration"] == 1 for c in status["conditions"])
    assert status["adapter"] == {"uri": "s3://adapters/good", "sha256": "0" * 64, "sizeBytes": 1}
    assert (status["attempt"], status["progress"]["display"]) == (1, "9/9")
    assert {"startTime", "completionTime", "activeSeconds"} <= set(status)
    told = wait_for("three Events", lambda: len(ns.events("good")) >= 3 and ns.events("good"), 5, 0.1)
    assert [event[:2] for event in told] == [
        ("Normal", "Starting"),
        ("Normal", "Running"),
        ("Normal", "AdapterPublished"),
    ]
    header, row = ns.plane.kubectl("get", "pj", "good", "-n", ns.name).splitlines()
    assert header.split() == ["NAME", "STATE", "STEP", "LOSS", "ETA", "ADAPTER", "AGE"]
    assert row.split()[:4] == ["good", "Succeeded", "9/9", "0.5"]
    ns.plane.kubectl("wait", "--for=condition=Succeeded", "pj/good", "-n", ns.name, "--timeout=5s")


def test_a_finished_job_stays_as_it_is_when_its_children_are_deleted(ns: Namespace) -> None:
    ns.submit("done", run_time="100ms", nodes=1)
    before = ns.wait_state("done", "Succeeded")
    for path in (f"{ns.jobs}/done-1", f"{ns.path}/services/done-workers", f"{ns.path}/configmaps/done-run"):
        ns.api.delete(path)
    wait_for("no pods", lambda: not ns.pods("done"), 10, 0.1)
    time.sleep(2)
    assert not ns.child_jobs("done")
    assert ns.find(f"{ns.path}/services/done-workers") is None
    assert ns.job("done") == before


@pytest.mark.parametrize(
    ("template", "want"),
    [
        ({"spec": {"contianers": []}}, 'unknown field "spec.template.spec.contianers"'),
        ({"spec": {"containers": [{"name": "trainer", "resources": {"limits": {"cpu": "lots"}}}]}}, "quantities"),
        ({"spec": {"restartPolicy": "Always"}}, "restartPolicy"),
    ],
    ids=["misspelt field", "impossible value", "forbidden value"],
)
def test_a_bad_pod_template_fails_within_ten_seconds_and_names_the_field(
    ns: Namespace, template: dict[str, Any], want: str, request: pytest.FixtureRequest
) -> None:
    name = ns.submit("template-" + str(abs(hash(want)) % 1000), template=template)
    found = failed(ns, name, 10)
    assert found["reason"] == "InvalidPodTemplate"
    assert want in found["message"]
    assert "spec.workers.podTemplate" in found["message"]
    assert not ns.child_jobs(name)


def test_a_worker_killed_for_memory_is_named_and_not_tried_again(ns: Namespace) -> None:
    limits = {"containers": [{"name": "trainer", "resources": {"limits": {"memory": "2Gi"}}}]}
    ns.submit("oom", template={"spec": limits})
    pods = ns.running("oom")
    ns.end(pods[1], 137, reason="OOMKilled")
    ns.end(pods[0], 71, failure("LostPeer", 71, "rank 1"))
    found = failed(ns, "oom")
    assert found["reason"] == "OutOfMemory"
    assert "limit of 2Gi" in found["message"]
    assert pods[1]["metadata"]["name"] in found["message"]
    assert ns.job("oom")["status"].get("restarts", 0) == 0


def test_a_permanent_failure_is_not_tried_again_and_its_pods_stay_for_their_logs(ns: Namespace) -> None:
    ns.submit("bad-data")
    pods = ns.running("bad-data")
    ns.end(pods[0], 65, failure("DatasetMalformed", 65, "train.jsonl line 7"))
    found = failed(ns, "bad-data")
    assert (found["reason"], found["message"]) == ("DatasetMalformed", "train.jsonl line 7")
    time.sleep(1)
    assert ns.child_jobs("bad-data") == ["bad-data-1"]
    assert pods[0]["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in ns.pods("bad-data")}


def test_failures_are_tried_again_up_to_max_restarts(ns: Namespace) -> None:
    ns.submit("flaky", maxRestarts=1)
    for attempt in (1, 2):
        pods = ns.running("flaky", attempt)
        ns.end(pods[1], 69, failure("StorageUnavailable", 69, "no answer"))
    found = failed(ns, "flaky")
    assert found["reason"] == "StorageUnavailable"
    assert found["message"] == (
        "failed 2 times before a step was finished: no answer (after 1 of at most 1 restarts in a row)"
    )
    assert (ns.job("flaky")["status"]["attempt"], ns.job("flaky")["status"]["restarts"]) == (2, 1)
    assert ns.child_jobs("flaky") == ["flaky-2"]


def test_disruptions_are_not_counted_as_failures(ns: Namespace) -> None:
    ns.submit("drained", maxRestarts=0)
    pods = ns.running("drained")
    ns.end(pods[0], 75, failure("Interrupted", 75, "SIGTERM"), disruption="Eviction API: evicting")
    ns.end(pods[1], 71, failure("LostPeer", 71, "rank 0"))
    ns.running("drained", 2)
    for pod in ns.pods("drained", 2):  # nobody says why
        ns.end(pod, 71, failure("LostPeer", 71, "a rank is gone"))
    ns.running("drained", 3)
    status = ns.job("drained")["status"]
    assert (status["disruptions"], status.get("restarts", 0)) == (2, 0)
    assert ("Warning", "Disrupted") in [event[:2] for event in ns.events("drained")]
    ns.finish("drained", 3)
    ns.wait_state("drained", "Succeeded")


def test_suspend_and_resume(ns: Namespace) -> None:
    ns.submit("paused", suspend=True)
    job = ns.wait_state("paused", "Suspended")
    assert "startTime" not in job["status"]
    ns.patch("paused", suspend=False)
    ns.running("paused")
    ns.patch("paused", suspend=True)
    ns.wait_state("paused", "Suspended")
    wait_for("no workers", lambda: not ns.pods("paused") and not ns.child_jobs("paused"), 10, 0.1)
    assert condition(ns.job("paused"), "Suspended")["reason"] == "Suspended"
    ns.patch("paused", suspend=False)
    ns.running("paused", 2)
    ns.finish("paused", 2)
    job = ns.wait_state("paused", "Succeeded")
    assert condition(job, "Suspended")["reason"] == "Resumed"
    assert (job["status"].get("restarts", 0), job["status"].get("disruptions", 0)) == (0, 0)
    reasons = [reason for _, reason, _ in ns.events("paused")]
    assert Counter(reasons)["Resumed"] == 2


@pytest.mark.parametrize("propagation", ["Foreground", "Background", "Orphan"])
def test_somebody_deletes_the_job(ns: Namespace, propagation: str) -> None:
    name = ns.submit(f"robbed-{propagation.lower()}", nodes=1)
    (pod,) = ns.running(name)
    ns.api.request("DELETE", f"{ns.jobs}/{name}-1", {"propagationPolicy": propagation})
    if propagation == "Orphan":
        ns.wait(name, "told", lambda job: job["status"].get("disruptions") == 1)
        time.sleep(3)
        assert not ns.child_jobs(name), "a gang beside one that is alive"
        ns.api.delete(f"{ns.path}/pods/{pod['metadata']['name']}")
    ns.running(name, 2)
    assert ns.job(name)["status"]["disruptions"] == 1


def test_deleting_a_peftjob_leaves_nothing(ns: Namespace) -> None:
    ns.submit("unwanted")
    ns.running("unwanted")
    ns.plane.kubectl("delete", "pj", "unwanted", "-n", ns.name)
    gone = [f"{ns.path}/services/unwanted-workers", f"{ns.path}/configmaps/unwanted-run", f"{ns.jobs}/unwanted-1"]
    wait_for("nothing", lambda: not any(map(ns.find, gone)) and not ns.pods("unwanted"), 40, 0.1)


def test_a_peftjob_of_the_same_name_waits_for_the_children_of_the_one_before(ns: Namespace) -> None:
    ns.submit("again")
    ns.running("again")
    ns.api.delete(f"{ns.peftjobs}/again")
    ns.submit("again", run_time="200ms")
    job = ns.wait_state("again", "Succeeded", 60)
    assert not [event for event in ns.events("again") if event[1] == "NameConflict"]
    assert job["status"]["attempt"] == 1


def test_the_time_to_live_of_a_finished_job(ns: Namespace) -> None:
    ns.submit("brief", nodes=1, run_time="100ms", ttlSecondsAfterFinished=2)
    ns.wait_state("brief", "Succeeded")
    wait_for("the PeftJob to go", lambda: ns.find(f"{ns.peftjobs}/brief") is None, 10, 0.1)
    wait_for("its children to go", lambda: not ns.child_jobs("brief"), 40, 0.1)  # once the collector knows the kind


def test_the_deadline_ends_the_workers(ns: Namespace) -> None:
    ns.submit("late", activeDeadlineSeconds=2)
    ns.running("late")
    found = failed(ns, "late", 15)
    assert found["reason"] == "DeadlineExceeded"
    wait_for("no workers", lambda: not ns.pods("late"), 15, 0.1)
    assert ns.job("late")["status"]["activeSeconds"] in (2, 3)


def test_a_queue_admits_preempts_and_admits_again(ns: Namespace) -> None:
    ns.submit("queued", labels={"kueue.x-k8s.io/queue-name": "team"})
    ns.wait_state("queued", "Queued")
    assert condition(ns.job("queued"), "Suspended")["reason"] == "Queued"
    child = f"{ns.jobs}/queued-1"
    assert ns.api.get(child)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    ns.api.merge(child, {"spec": {"suspend": False}})
    ns.running("queued")
    ns.api.merge(child, {"spec": {"suspend": True}})
    ns.wait_state("queued", "Queued")
    wait_for("no pods", lambda: not ns.pods("queued"), 10, 0.1)
    ns.api.merge(child, {"spec": {"suspend": False}})
    ns.running("queued")
    ns.finish("queued")
    status = ns.wait_state("queued", "Succeeded")["status"]
    assert (status["attempt"], status["disruptions"], status.get("restarts", 0)) == (1, 1, 0)
    assert condition({"status": status}, "Suspended")["reason"] == "Resumed"


def test_a_gang_of_which_only_a_part_is_scheduled_says_so(ns: Namespace) -> None:
    anti = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"peftjob.io/job-name": "three"}},
                }
            ]
        }
    }
    workers = {
        "nodes": 3,
        "processesPerNode": 1,
        "podTemplate": {"spec": {"affinity": anti}},
        "startTimeoutSeconds": 10,
    }
    ns.submit("three", workers=workers)
    found = ns.wait_ready("three", "PartlyScheduled")
    assert "2 of 3 workers have a node" in found["message"]
    ns.wait_ready("three", "StartTimeout", 20)
    wait_for("its nodes given back", lambda: not ns.pods("three"), 10, 0.1)
    ns.api.delete(f"{ns.peftjobs}/three")


def test_names_that_are_taken_are_never_touched(ns: Namespace) -> None:
    for name, kind in (("taken", "Service taken-workers"), ("noted", "ConfigMap noted-run"), ("busy", "Job busy-1")):
        found = ns.wait_ready(name, "NameConflict")
        assert kind in found["message"]
    assert "ownerReferences" not in ns.api.get(f"{ns.path}/services/taken-workers")["metadata"]
    assert ns.api.get(f"{ns.path}/configmaps/noted-run")["data"] == {"a": "b"}
    assert "ownerReferences" not in ns.api.get(f"{ns.jobs}/busy-1")["metadata"]
    assert not ns.child_jobs("taken")
    ns.api.delete(f"{ns.path}/services/taken-workers")
    ns.running("taken", timeout=20)


def test_a_quota_without_room_is_waited_for(full: Namespace) -> None:
    found = full.wait_ready("squeezed", "QuotaExceeded")
    assert "exceeded quota: q" in found["message"]
    full.api.merge(f"{full.path}/resourcequotas/q", {"spec": {"hard": {"count/jobs.batch": "5"}}})
    full.running("squeezed", timeout=30)


def test_a_quota_without_room_for_the_pods(namespace: Callable[[str], Namespace]) -> None:
    ns = namespace("tight")
    ns.api.create(f"{ns.path}/resourcequotas", {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}})
    wait_for("the quota", lambda: ns.api.get(f"{ns.path}/resourcequotas/q").get("status", {}).get("hard"), 30, 0.1)
    ns.submit("cramped")
    assert "exceeded quota: q" in ns.wait_ready("cramped", "QuotaExceeded")["message"]


def test_a_claim_that_is_missing_is_waited_for(ns: Namespace) -> None:
    """The scheduler names it; once it is there and bound, the same attempt starts."""
    ns.submit("unmounted", nodes=1, dataset={"train": "pvc://words/train.jsonl"})
    found = ns.wait_ready("unmounted", "VolumeNotReady")
    assert found["status"] == "False"
    assert 'persistentvolumeclaim "words" not found' in found["message"]
    size, modes = {"storage": "1Mi"}, ["ReadWriteMany"]
    claim = {"accessModes": modes, "storageClassName": "", "volumeName": "words", "resources": {"requests": size}}
    volume = {"accessModes": modes, "capacity": size, "hostPath": {"path": "/words"}}
    ns.api.create("/api/v1/persistentvolumes", {"metadata": {"name": "words"}, "spec": volume})
    ns.api.create(f"{ns.path}/persistentvolumeclaims", {"metadata": {"name": "words"}, "spec": claim})
    ns.running("unmounted", timeout=60)


def test_a_policy_that_refuses_the_pods_is_told(namespace: Callable[[str], Namespace]) -> None:
    ns = namespace("strict")
    enforce = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    ns.api.merge(f"/api/v1/namespaces/{ns.name}", enforce)
    ns.submit("refused", template={"spec": {"hostNetwork": True}})
    found = ns.wait_ready("refused", "InvalidPodTemplate")
    assert found["status"] == "False"
    assert "violates PodSecurity" in found["message"]


def test_the_operator_used_its_rights_all_of_them_and_no_more(plane: ControlPlane, ns: Namespace) -> None:
    """Last: counts the requests of all tests above."""
    used: set[tuple[str, str, str]] = set()
    for event in plane.audit_events():
        if event["user"]["username"] == OPERATOR_USER and "objectRef" in event:
            ref = event["objectRef"]
            resource = "/".join(filter(None, (ref["resource"], ref.get("subresource"))))
            used.add((ref.get("apiGroup", ""), resource, event["verb"]))
            forbidden = event.get("responseStatus", {}).get("code") == 403 and "exceeded quota" not in str(event)
            assert not forbidden, event
    granted = {(group, resource, verb) for (group, resource), verbs in RIGHTS.items() for verb in verbs}
    assert used <= granted
    rare = {("", "pods", "delete"), ("peftjob.io", "peftjobs", "get")}
    assert granted - used <= rare, "lost pods and a status that met a conflict are other modules'"


def test_an_immutable_field_of_a_started_job(ns: Namespace) -> None:
    with pytest.raises(ApiError, match="cannot change once the job has started"):
        ns.patch("good", output={"uri": "s3://adapters/other"})
