"""The two-node cluster with the operator and S3, and a namespace of it, as an e2e test sees it."""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

from .kubectl import Kubectl, Object, helm_install
from .objects import ObjectStore
from .waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
IN_CLUSTER_S3 = "http://s3.s3.svc.cluster.local:7070"
SYSTEM = "peftjob-system"
_VALUES = {
    "operator.image.repository": "localhost/peftjob-operator",
    "operator.image.tag": "dev",
    "trainer.image.repository": "localhost/peftjob-trainer",
    "trainer.image.tag": "dev",
    "operator.nodeSelector.kubernetes\\.io/hostname": "n1",  # the tests make the other node vanish
}


def installed_operator() -> Kubectl:
    """Install the operator as a user does; return kubectl in its namespace."""
    helm_install([str(ROOT / ".cluster/bin/helm")], ROOT / "charts/peftjob-operator", SYSTEM, _VALUES)
    return Kubectl(SYSTEM)


def s3_server() -> tuple[ObjectStore, dict[str, str]]:
    """Return the cluster's S3 server, which answers, and its keys."""
    kubectl = Kubectl("s3")
    service, secret = kubectl.get("service", "s3"), kubectl.get("secret", "s3-credentials")
    assert service is not None
    assert secret is not None
    keys = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    endpoint = f"http://{service['spec']['clusterIP']}:7070"
    store = ObjectStore(endpoint, keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
    wait_for("S3 to answer", lambda: store.client.list_buckets(), 60)
    return store, keys


@dataclass
class Cluster:
    """What a test works with."""

    kubectl: Kubectl
    store: ObjectStore
    keys: dict[str, str]
    names: set[str] = field(default_factory=set)

    def submit(self, job: Object) -> str:
        """Create a PeftJob, to be deleted when the test module ends; return its name."""
        name: str = job["metadata"]["name"]
        self.names.add(name)
        self.kubectl.run("create", "-f", "-", stdin=json.dumps(job))
        return name

    def node_names(self, name: str) -> list[str]:
        """Return the nodes that a PeftJob's pods run on."""
        pods = self.kubectl.list("pods", f"peftjob.io/job-name={name}")
        return sorted(pod["spec"].get("nodeName", "") for pod in pods)
