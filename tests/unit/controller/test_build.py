"""The child objects: what every worker pod has, and what no podTemplate can take away."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peftjob_api import PeftJobSpec, RunConfig
from peftjob_operator import build
from peftjob_operator.merge import strategic_merge
from peftjob_operator.settings import Settings
from peftjob_testkit.builders import NAME, UID, Object, peftjob, snapshot

SETTINGS = Settings("registry.example.com/trainer:1", "Always")
LABELS = {"peftjob.io/job-name": NAME, "peftjob.io/job-uid": UID}


def job(metadata: Object | None = None, attempt: int = 3, **fields: Any) -> Object:
    seen = snapshot(peftjob(metadata=metadata or {}, **fields))
    assert seen.spec is not None, seen.spec_error
    return build.job(seen.metadata, seen.spec, attempt, SETTINGS)


def pod(template: Object | None = None, **fields: Any) -> Object:
    workers = fields.pop("workers", {"nodes": 2, "processesPerNode": 1})
    found: Object = job(workers={**workers, **({"podTemplate": template} if template else {})}, **fields)
    return found["spec"]["template"]  # type: ignore[no-any-return]


def trainer(template: Object) -> Object:
    (found,) = [c for c in template["spec"]["containers"] if c["name"] == "trainer"]
    return found  # type: ignore[no-any-return]


def environment(template: Object) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in trainer(template)["env"]}


def test_a_job_is_one_gang() -> None:
    found = job()
    assert found["metadata"]["name"] == "tune-3"
    assert found["metadata"]["labels"].items() >= {**LABELS, "peftjob.io/attempt": "3"}.items()
    (owner,) = found["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "peftjob.io/v1alpha1", "kind": "PeftJob", "name": NAME, "uid": UID, "controller": True
    }  # fmt: skip
    spec = found["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert "suspend" not in spec, "that is a queue's to set"


def test_a_disruption_comes_before_what_it_makes_of_the_peers() -> None:
    rules = job()["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "FailJob"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[1]["onExitCodes"]["values"] == [64, 65, 66, 78]


def test_queue_labels_reach_the_job_and_no_others_do() -> None:
    labels = {"kueue.x-k8s.io/queue-name": "q", "kueue.x-k8s.io/priority-class": "p", "team": "a"}
    found = job({"labels": labels})["metadata"]["labels"]
    assert found.items() >= {"kueue.x-k8s.io/queue-name": "q", "kueue.x-k8s.io/priority-class": "p"}.items()
    assert "team" not in found


def test_what_every_pod_has() -> None:
    template = pod()
    spec = template["spec"]
    assert template["metadata"]["labels"].items() >= {**LABELS, "peftjob.io/attempt": "3"}.items()
    assert (spec["restartPolicy"], spec["subdomain"]) == ("Never", "tune-workers")
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert {(t["key"], t["effect"], t["tolerationSeconds"]) for t in spec["tolerations"]} == {
        ("node.kubernetes.io/not-ready", "NoExecute", 30),
        ("node.kubernetes.io/unreachable", "NoExecute", 30),
    }
    container = trainer(template)
    assert (container["image"], container["imagePullPolicy"]) == (SETTINGS.trainer_image, "Always")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in spec["volumes"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {"/etc/peftjob": "run-config", "/tmp": "tmp", "/dev/shm": "shm"}
    env = environment(template)
    assert env["PEFTJOB_MASTER_ADDR"] == "tune-3-0.tune-workers"
    assert env["PEFTJOB_ATTEMPT"] == "3"
    assert env["PEFTJOB_GANG"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


def test_service_and_config() -> None:
    seen = snapshot(peftjob(suspend=True, maxRestarts=7))
    assert seen.spec is not None
    service = build.service(seen.metadata)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == LABELS
    text = build.config_map(seen.metadata, seen.spec)["data"]["run.json"]
    run = RunConfig.model_validate_json(text)
    assert (run.job.uid, run.spec.output.uri) == (UID, "s3://adapters/tune")
    assert run.spec.suspend is False, "what only the operator reads changes nothing for the workers"


@pytest.mark.parametrize(
    ("workers", "want"),
    [
        pytest.param({}, {"nvidia.com/gpu": 1}, id="default"),
        pytest.param({"gpusPerNode": 8}, {"nvidia.com/gpu": 8}, id="eight"),
        pytest.param(
            {"gpusPerNode": 2, "acceleratorResource": "amd.com/gpu"}, {"amd.com/gpu": 2}, id="another resource"
        ),
        pytest.param({"processesPerNode": 2}, None, id="on the CPU"),
    ],
)
def test_accelerators(workers: Object, want: Object | None) -> None:
    assert trainer(pod(workers=workers)).get("resources", {}).get("limits") == want


def test_resources_of_the_template_add_to_the_accelerators() -> None:
    template = {"spec": {"containers": [{"name": "trainer", "resources": {"limits": {"memory": "64Gi"}}}]}}
    assert trainer(pod(template, workers={"gpusPerNode": 2}))["resources"]["limits"] == {
        "nvidia.com/gpu": 2,
        "memory": "64Gi",
    }


def test_secrets_are_named_and_nothing_more() -> None:
    storage = {"s3": {"secretName": "keys"}, "huggingFace": {"secretName": "hub"}}
    template = pod(storage=storage, baseModel={"uri": "hf://o/m"})
    env = environment(template)
    assert env["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "keys", "key": "AWS_ACCESS_KEY_ID"}}
    assert env["AWS_SESSION_TOKEN"]["secretKeyRef"]["optional"] is True
    assert env["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
    assert [volume["secret"] for volume in template["spec"]["volumes"] if "secret" in volume] == [
        {"secretName": "keys", "items": [{"key": key, "path": key} for key in keys], "optional": True}
    ]
    assert {"name": "s3-keys", "mountPath": "/etc/peftjob-s3", "readOnly": True} in trainer(template)["volumeMounts"]
    assert not [volume for volume in pod()["spec"]["volumes"] if "secret" in volume]
    assert "AWS_ACCESS_KEY_ID" not in environment(pod())


def test_claims_are_mounted_once_each() -> None:
    template = pod(
        baseModel={"uri": "pvc://models/llama"},
        output={"uri": "pvc://models/out"},
        dataset={"train": "pvc://data/t.csv"},
    )
    claims = [
        v["persistentVolumeClaim"]["claimName"] for v in template["spec"]["volumes"] if "persistentVolumeClaim" in v
    ]
    assert claims == ["models", "data"]
    mounts = {m["mountPath"] for m in trainer(template)["volumeMounts"]}
    assert mounts >= {"/mnt/pvc/models", "/mnt/pvc/data"}
    assert template["spec"]["securityContext"]["fsGroup"] == 65532


@pytest.mark.parametrize(
    "template",
    [
        {"metadata": {"labels": {"peftjob.io/job-uid": "x", "peftjob.io/attempt": "9", "team": "a"}}},
        {"spec": {"automountServiceAccountToken": True, "subdomain": "evil"}},
        {"metadata": {"labels": None}, "spec": {"hostname": "h"}},
        {"metadata": None},
        {"metadata": {"labels": "x"}},
    ],
    ids=["labels", "token and subdomain", "no labels", "no metadata", "labels of another type"],
)
def test_what_no_template_can_take_away(template: Object) -> None:
    found = pod(template)
    assert found["metadata"]["labels"].items() >= {**LABELS, "peftjob.io/attempt": "3"}.items()
    assert found["spec"]["automountServiceAccountToken"] is False
    assert found["spec"]["subdomain"] == "tune-workers"


@given(st.recursive(st.none() | st.text(max_size=3) | st.integers(), lambda inner: st.lists(inner, max_size=2) |
       st.dictionaries(st.sampled_from(["metadata", "spec", "labels", "containers", "name", "env"]), inner, max_size=3),
       max_leaves=8))  # fmt: skip
def test_any_template_is_for_the_api_server_to_judge(template: Any) -> None:
    if isinstance(template, dict):
        seen = snapshot(peftjob())
        assert isinstance(seen.spec, PeftJobSpec)
        workers = seen.spec.workers.model_copy(update={"pod_template": template})
        build.job(seen.metadata, seen.spec.model_copy(update={"workers": workers}), 1, SETTINGS)


BASE = {
    "containers": [{"name": "trainer", "image": "a", "env": [{"name": "A", "value": "1"}]}],
    "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
    "tolerations": [{"key": "a"}],
    "securityContext": {"runAsNonRoot": True},
}


@pytest.mark.parametrize(
    ("over", "want"),
    [
        pytest.param({"nodeSelector": {"x": "y"}}, {"nodeSelector": {"x": "y"}}, id="a new field"),
        pytest.param(
            {"containers": [{"name": "trainer", "image": "b"}]},
            {"containers": [{"name": "trainer", "image": "b", "env": [{"name": "A", "value": "1"}]}]},
            id="a field of our container",
        ),
        pytest.param(
            {"containers": [{"name": "side", "image": "s"}]},
            {"containers": [*BASE["containers"], {"name": "side", "image": "s"}]},
            id="a container beside ours",
        ),
        pytest.param(
            {"containers": [{"name": "trainer", "env": [{"name": "A", "valueFrom": {"x": 1}}, {"name": "B"}]}]},
            {
                "containers": [
                    {
                        "name": "trainer",
                        "image": "a",
                        "env": [{"name": "A", "valueFrom": {"x": 1}}, {"name": "B"}],
                    }
                ]
            },
            id="another source of a variable",
        ),
        pytest.param(
            {"volumes": [{"name": "tmp", "persistentVolumeClaim": {"claimName": "scratch"}}]},
            {"volumes": [{"name": "tmp", "persistentVolumeClaim": {"claimName": "scratch"}}, BASE["volumes"][1]]},
            id="another kind of a volume",
        ),
        pytest.param(
            {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "8Gi"}}]},
            {"volumes": [BASE["volumes"][0], {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}]},
            id="a setting of a volume",
        ),
        pytest.param(
            {"tolerations": [{"key": "b"}, {"key": "a"}]}, {"tolerations": [{"key": "a"}, {"key": "b"}]}, id="added"
        ),
        pytest.param(
            {"securityContext": {"fsGroup": 1}}, {"securityContext": {"runAsNonRoot": True, "fsGroup": 1}}, id="deep"
        ),
        pytest.param({"containers": "oops"}, {"containers": "oops"}, id="of another type, for the API server to name"),
        pytest.param({"tolerations": None}, {"tolerations": None}, id="null"),
    ],
)  # fmt: skip
def test_strategic_merge(over: Object, want: Object) -> None:
    before = repr(BASE)
    assert strategic_merge(BASE, over) == {**BASE, **want}
    assert repr(BASE) == before, "the original was changed"
