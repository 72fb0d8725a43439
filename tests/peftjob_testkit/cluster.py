"""A namespace of the two-node cluster, as an e2e test sees it."""

import json
from dataclasses import dataclass, field

from .kubectl import Kubectl, Object
from .objects import ObjectStore

IN_CLUSTER_S3 = "http://s3.s3.svc.cluster.local:7070"


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
