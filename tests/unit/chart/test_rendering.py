"""What the chart renders: snapshots of whole value sets, schemas of Kubernetes, and the promises one by one.

UPDATE_SNAPSHOTS=1 pytest tests/unit/chart    # writes snapshots/*.yaml anew; read the diff before you commit it
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from peftjob_api import PeftJob
from peftjob_testkit.chart import CHART, NAMESPACE, RELEASE, ROOT, Helm, Render

HERE = Path(__file__).resolve().parent
SNAPSHOTS = HERE / "snapshots"
SCHEMAS = HERE / "schemas"
CRD_FILE = CHART / "files/peftjob.io_peftjobs.yaml"
DIGEST = "sha256:" + "0123456789abcdef" * 4

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "two-namespaces": {"watchNamespaces": ["team-a", "team-b"], "crds": {"install": False}},
    "own-registry": {
        "imageRegistry": "registry.example.com:5000/ml/",
        "imagePullSecrets": [{"name": "my-registry"}],
        "operator": {"image": {"digest": DIGEST}},
        "trainer": {"image": {"repository": "team/trainer", "tag": "v7", "digest": DIGEST, "pullPolicy": "Always"}},
    },
    "observed": {
        "metrics": {
            "service": {"annotations": {"prometheus.io/scrape": "true"}},
            "serviceMonitor": {"enabled": True, "interval": "10s", "labels": {"release": "prometheus"}},
            "podMonitor": {"enabled": True},
        },
        "networkPolicy": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        },
    },
    "placed": {
        "fullnameOverride": "pj",
        "commonLabels": {"team": "ml"},
        "userRoles": {"create": False},
        "crds": {"keep": False},
        "serviceAccount": {"create": False, "name": "existing"},
        "operator": {
            "runAsUser": None,
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"pool": "system"},
            "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
                    }
                }
            },
            "podAnnotations": {"note": "x"},
            "podLabels": {"tier": "control"},
        },
    },
}
EVERY_SET = pytest.mark.parametrize("name", VALUES)


def find(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"].get("name"))]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def pod_specs(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [find(objects, "Deployment")["spec"]["template"]["spec"], find(objects, "Pod")["spec"]]


def test_the_chart_passes_helms_strict_linter(helm: Helm) -> None:
    done = helm.run("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


@EVERY_SET
def test_rendering_is_as_committed(name: str, render: Render) -> None:
    # The CRD has its own committed file; only what the chart adds to it belongs into the snapshot.
    objects = render(VALUES[name])
    for crd in objects:
        if crd["kind"] == "CustomResourceDefinition":
            crd["spec"] = {"omitted": CRD_FILE.name}
    text = yaml.safe_dump_all(objects, sort_keys=True, width=120)
    snapshot = SNAPSHOTS / f"{name}.yaml"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.write_text(text)
    assert snapshot.exists(), f"{snapshot.relative_to(ROOT)} is missing: run with UPDATE_SNAPSHOTS=1"
    assert text == snapshot.read_text(), "run with UPDATE_SNAPSHOTS=1 and read the diff"


def test_every_snapshot_belongs_to_a_set_of_values() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.yaml")} == set(VALUES)


@EVERY_SET
def test_kubernetes_knows_every_field(name: str, render: Render, kubeconform: Path, tmp_path: Path) -> None:
    objects = render(VALUES[name])
    manifest = tmp_path / "rendered.yaml"
    manifest.write_text(yaml.safe_dump_all(objects))
    # Monitors are the Prometheus operator's kinds, of which Kubernetes has no schema; the snapshot holds them.
    done = subprocess.run(
        [
            str(kubeconform),
            *("-strict", "-summary", "-output", "json", "-skip", "ServiceMonitor,PodMonitor"),
            *("-schema-location", str(SCHEMAS / "{{.ResourceKind}}{{.KindSuffix}}.json"), str(manifest)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    monitors = sum(o["kind"] in ("ServiceMonitor", "PodMonitor") for o in objects)
    summary = json.loads(done.stdout)["summary"]
    assert summary == {"valid": len(objects) - monitors, "invalid": 0, "errors": 0, "skipped": monitors}


def test_kubeconform_finds_a_misspelt_field(kubeconform: Path, render: Render, tmp_path: Path) -> None:
    deployment = find(render({}), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullpolicy"] = "Always"
    manifest = tmp_path / "deployment.yaml"
    manifest.write_text(yaml.safe_dump(deployment))
    done = subprocess.run(
        [str(kubeconform), "-schema-location", str(SCHEMAS / "{{.ResourceKind}}{{.KindSuffix}}.json"), str(manifest)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "imagePullpolicy" in done.stdout


@EVERY_SET
def test_pods_meet_the_restricted_standard(name: str, render: Render) -> None:
    for pod in pod_specs(render(VALUES[name])):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        assert all(set(volume) <= {"name", "emptyDir"} for volume in pod.get("volumes", []))


@EVERY_SET
def test_every_object_is_labelled_and_namespaced_objects_name_their_namespace(name: str, render: Render) -> None:
    for rendered in render(VALUES[name]):
        metadata = rendered["metadata"]
        assert metadata["labels"]["app.kubernetes.io/instance"] == RELEASE
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "peftjob"
        cluster_scoped = rendered["kind"].startswith("Cluster") or rendered["kind"] == "CustomResourceDefinition"
        assert ("namespace" in metadata) != cluster_scoped


def test_the_service_and_the_policy_select_the_operators_pod_and_not_the_tests(render: Render) -> None:
    objects = render(VALUES["observed"])
    pod = find(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    test_pod = find(objects, "Pod")["metadata"]["labels"].items()
    for selector in (
        find(objects, "Service")["spec"]["selector"],
        find(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        find(objects, "Deployment")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= pod
        assert not selector.items() <= test_pod


def test_selectors_do_not_depend_on_the_version_or_on_labels_of_ones_own(render: Render) -> None:
    plain = find(render({}), "Deployment")["spec"]["selector"]
    labelled = find(render({"commonLabels": {"a": "b"}, "operator": {"podLabels": {"c": "d"}}}), "Deployment")["spec"]
    assert labelled["selector"] == plain
    assert not any("version" in key or "chart" in key for key in plain["matchLabels"])


def test_the_crd_is_the_generated_one(render: Render) -> None:
    crd = find(render({}), "CustomResourceDefinition")
    committed = yaml.safe_load(CRD_FILE.read_text())
    assert crd["spec"] == committed["spec"]
    assert crd["metadata"]["name"] == committed["metadata"]["name"]


def test_the_charts_copy_of_the_crd_is_the_one_in_crds() -> None:
    assert CRD_FILE.read_bytes() == (ROOT / "crds" / CRD_FILE.name).read_bytes()


def test_the_crd_outlives_the_release_unless_told(render: Render) -> None:
    kept = find(render({}), "CustomResourceDefinition")["metadata"]
    assert kept["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in find(render({"crds": {"keep": False}}), "CustomResourceDefinition")["metadata"]
    assert all(o["kind"] != "CustomResourceDefinition" for o in render({"crds": {"install": False}}))


@pytest.mark.parametrize(
    ("registry", "image", "want"),
    [
        pytest.param("", {}, "peftjob-operator:0.1.0", id="the chart's own version by default"),
        pytest.param("", {"tag": "v2"}, "peftjob-operator:v2", id="a tag"),
        pytest.param("", {"digest": DIGEST}, f"peftjob-operator@{DIGEST}", id="a digest alone"),
        pytest.param("", {"tag": "v2", "digest": DIGEST}, f"peftjob-operator:v2@{DIGEST}", id="a tag and a digest"),
        pytest.param("r.io:5000", {"repository": "a/b"}, "r.io:5000/a/b:0.1.0", id="a registry with a port"),
    ],
)
def test_image_references(registry: str, image: dict[str, str], want: str, render: Render) -> None:
    objects = render({"imageRegistry": registry, "operator": {"image": image}})
    assert [pod["containers"][0]["image"] for pod in pod_specs(objects)] == [want, want]


def test_the_operator_is_told_the_workers_image_and_its_namespaces(render: Render) -> None:
    values = {"watchNamespaces": ["a", "b"], "trainer": {"image": {"tag": "v7", "pullPolicy": "Always"}}}
    (container,) = find(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {entry["name"]: entry["value"] for entry in container["env"]} == {
        "PEFTJOB_OPERATOR_TRAINER_IMAGE": "peftjob-trainer:v7",
        "PEFTJOB_OPERATOR_TRAINER_IMAGE_PULL_POLICY": "Always",
        "PEFTJOB_OPERATOR_WATCH_NAMESPACES": "a,b",
    }


def test_notes_name_the_next_command(helm: Helm, tmp_path: Path) -> None:
    # Without a cluster Helm renders no notes, so they become an object of a copy of the chart.
    chart = Path(shutil.copytree(CHART, tmp_path / CHART.name))
    text = (chart / "templates/NOTES.txt").read_text()
    (chart / "templates/notes.yaml").write_text(
        '{{ define "notes" }}'
        + text
        + '{{ end }}{"kind": "Notes", "metadata": {}, "text": {{ include "notes" . | toJson }}}'
    )
    objects = helm.objects({"watchNamespaces": ["team-a"]}, tmp_path, chart=chart)
    notes = find(objects, "Notes")["text"]
    assert f"helm test {RELEASE} --namespace {NAMESPACE}" in notes
    manifest = notes.partition("<<'EOF'\n")[2].partition("EOF")[0]
    sample = yaml.safe_load(manifest)
    assert (sample["apiVersion"], sample["kind"]) == ("peftjob.io/v1alpha1", "PeftJob")
    PeftJob.model_validate(sample)


def test_schemas_are_of_the_version_that_the_cluster_tests_run() -> None:
    go_mod = (ROOT / "tests/cluster/go/kubernetes/go.mod").read_text()
    version = json.loads((SCHEMAS / "definitions.json").read_text())["$comment"].split()[1].rstrip(",")
    assert f"k8s.io/kubernetes {version}" in go_mod, "run python tests/unit/chart/schemas/generate.py"
