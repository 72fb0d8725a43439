"""The chart on a real API server: Helm installs, upgrades and removes it, and RBAC and pod security judge it.

Pods run on fake nodes, so `--wait` and `helm test` go their whole way but no container starts; tests/e2e runs those.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from peftjob_cluster.control_plane import ControlPlane
from peftjob_cluster.shell import ClusterError
from peftjob_testkit.chart import CHART, tool
from peftjob_testkit.waiting import wait_for

RELEASE, NAMESPACE = "peftjob-operator", "peftjob-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
PEFTJOB = """
apiVersion: peftjob.io/v1alpha1
kind: PeftJob
metadata: {name: kept, namespace: team-a}
spec:
  baseModel: {uri: "s3://models/m"}
  dataset: {train: "s3://data/d.jsonl"}
  output: {uri: "s3://adapters/a"}
"""


class Installer:
    """Helm against the control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.env = {**os.environ, "KUBECONFIG": str(plane.admin_kubeconfig), "HOME": str(plane.folder)}

    def try_run(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(tool("helm")), *map(str, args), "--namespace", NAMESPACE]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, check=False)

    def run(self, *args: str | Path) -> str:
        done = self.try_run(*args)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def can(self, user: str, verb: str, resource: str, namespace: str | None) -> bool:
        """Ask the API server whether a user may; None as the namespace stands for all of them."""
        resource, _, subresource = resource.partition("/")
        scope = ["--namespace", namespace] if namespace else ["--all-namespaces"]
        if subresource:
            scope += ["--subresource", subresource]
        done = subprocess.run(
            [str(tool("kubectl")), "auth", "can-i", verb, resource, *scope, "--as", user],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stdout.strip() in ("yes", "no"), done.stderr
        return done.stdout.strip() == "yes"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane(controller_manager=True, fake_nodes=1) as plane:
        for namespace in (NAMESPACE, "team-a", "team-b"):
            plane.kubectl("create", "namespace", namespace)
        # Admission then refuses whatever does not meet the restricted standard.
        plane.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        plane.kubectl("create", "rolebinding", "ed", "--clusterrole=edit", "--user=ed", "--namespace=team-a")
        plane.kubectl("create", "rolebinding", "vi", "--clusterrole=view", "--user=vi", "--namespace=team-a")
        yield plane


@pytest.fixture
def helm(plane: ControlPlane) -> Iterator[Installer]:
    installer = Installer(plane)
    yield installer
    for release in installer.run("list", "--short", "--all").split():
        installer.run("uninstall", release, "--wait")
    plane.kubectl("delete", "crd", "peftjobs.peftjob.io", "--ignore-not-found")


def install(helm: Installer, *args: str) -> None:
    helm.run("install", RELEASE, CHART, "--wait", "--timeout", "60s", *args)
    helm.plane.kubectl("wait", "--for=condition=Established", "crd/peftjobs.peftjob.io", "--timeout=30s")


def test_every_object_is_admitted_and_the_operator_may_do_its_work_and_no_more(helm: Installer) -> None:
    install(helm, "--set", "networkPolicy.enabled=true")
    helm.run("test", RELEASE, "--timeout", "60s")
    want = {
        ("watch", "peftjobs.peftjob.io", None): True,
        ("patch", "peftjobs.peftjob.io/status", "team-a"): True,
        ("create", "jobs.batch", "team-b"): True,
        ("delete", "pods", "team-a"): True,
        ("create", "peftjobs.peftjob.io", "team-a"): False,
        ("update", "jobs.batch", "team-a"): False,
        ("patch", "jobs.batch", "team-a"): False,
        ("create", "pods", "team-a"): False,
        ("create", "pods/exec", "team-a"): False,
        ("get", "secrets", "team-a"): False,
        ("list", "secrets", NAMESPACE): False,
        ("get", "nodes", None): False,
        ("create", "clusterroles.rbac.authorization.k8s.io", None): False,
    }
    assert {question: helm.can(OPERATOR, *question) for question in want} == want


def test_an_operator_of_one_namespace_has_no_rights_in_another(helm: Installer) -> None:
    install(helm, "--set", "watchNamespaces={team-a}")
    want = {
        ("watch", "peftjobs.peftjob.io", "team-a"): True,
        ("create", "jobs.batch", "team-a"): True,
        ("watch", "peftjobs.peftjob.io", "team-b"): False,
        ("watch", "peftjobs.peftjob.io", None): False,
        ("create", "jobs.batch", "team-b"): False,
        ("list", "pods", NAMESPACE): False,
        ("get", "secrets", "team-a"): False,
    }
    assert {question: helm.can(OPERATOR, *question) for question in want} == want
    roles = helm.plane.kubectl("get", "clusterroles", "-l", "app.kubernetes.io/part-of=peftjob", "-o", "name").split()
    assert roles == []


def test_who_may_edit_a_namespace_may_edit_its_peftjobs(helm: Installer) -> None:
    install(helm)
    # A controller folds the chart's roles into the cluster's own, within moments.
    wait_for("the role edit extended", lambda: helm.can("ed", "create", "peftjobs.peftjob.io", "team-a"), timeout=30)
    wait_for("the role view extended", lambda: helm.can("vi", "list", "peftjobs.peftjob.io", "team-a"), timeout=30)
    want = {
        ("ed", "create", "team-a"): True,
        ("ed", "delete", "team-a"): True,
        ("ed", "create", "team-b"): False,
        ("vi", "watch", "team-a"): True,
        ("vi", "create", "team-a"): False,
    }
    assert {q: helm.can(q[0], q[1], "peftjobs.peftjob.io", q[2]) for q in want} == want
    assert not helm.can("ed", "patch", "peftjobs.peftjob.io/status", "team-a")
    with pytest.raises(ClusterError, match=r"peftjobs\.peftjob\.io is forbidden"):
        helm.plane.kubectl("create", "--filename", "-", "--as", "vi", stdin=PEFTJOB)


def test_an_upgrade_brings_a_new_field_and_an_uninstall_keeps_the_peftjobs(helm: Installer, tmp_path: Path) -> None:
    install(helm)
    helm.plane.kubectl("apply", "--filename", "-", stdin=PEFTJOB)

    newer = Path(shutil.copytree(CHART, tmp_path / CHART.name))
    crd = newer / "files/peftjob.io_peftjobs.yaml"
    document = yaml.safe_load(crd.read_text())
    document["spec"]["names"]["categories"] = ["training"]
    crd.write_text(yaml.safe_dump(document, sort_keys=False))
    helm.run("upgrade", RELEASE, newer, "--wait", "--timeout", "60s")
    categories = ("get", "crd", "peftjobs.peftjob.io", "--output", "jsonpath={.spec.names.categories}")
    assert helm.plane.kubectl(*categories) == '["training"]'

    helm.run("uninstall", RELEASE, "--wait")
    kept = ("get", "peftjobs.peftjob.io", "--namespace", "team-a", "--output", "name")
    assert helm.plane.kubectl(*kept).split() == ["peftjob.peftjob.io/kept"]
    assert not helm.can(OPERATOR, "watch", "peftjobs.peftjob.io", None)

    refused = helm.try_run("install", "another", CHART)
    assert refused.returncode != 0
    assert "invalid ownership metadata" in refused.stderr
    helm.run("install", "another", CHART, "--take-ownership", "--wait", "--timeout", "60s")


def test_the_crd_and_the_peftjobs_go_with_the_release_when_told(helm: Installer) -> None:
    install(helm, "--set", "crds.keep=false")
    helm.run("uninstall", RELEASE, "--wait")
    assert "peftjobs.peftjob.io" not in helm.plane.kubectl("get", "crds", "--output", "name")
    with pytest.raises(ClusterError, match='no matches for kind "PeftJob"'):
        helm.plane.kubectl("apply", "--filename", "-", stdin=PEFTJOB)
