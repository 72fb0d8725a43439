"""An S3 server for the demo in a cluster that has none: in memory of its pod, with keys made now. Used by `demo`.

The embedded cluster brings its own, under the same names.
"""

import secrets
from pathlib import Path
from typing import Any

from peftjob_cluster.s3 import arguments
from peftjob_testkit.kubectl import Kubectl

NAMESPACE = "s3"
PORT = 7070
SECRET = "s3-credentials"
_LABELS = {"app": "s3"}
_KEYS = (("ROOT_ACCESS_KEY", "AWS_ACCESS_KEY_ID"), ("ROOT_SECRET_KEY", "AWS_SECRET_ACCESS_KEY"))


def ensure(kubectl: Kubectl, image: str) -> bool:
    """Make the server unless its Secret is there; return whether it was made."""
    if kubectl.get("namespace", NAMESPACE) is None:
        kubectl.run("create", "namespace", NAMESPACE)
    inside = Kubectl(NAMESPACE, kubectl.command)
    if inside.get("secret", SECRET) is not None:
        return False
    inside.apply(*objects(image, {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}))
    inside.run("rollout", "status", "deployment/s3", "--timeout=180s", timeout=190)
    return True


def objects(image: str, keys: dict[str, str]) -> list[dict[str, Any]]:
    """Return the Secret, the Deployment and the Service."""
    folders = ("data", "sidecar")
    container = {
        "name": "s3",
        "image": image,
        "args": arguments(f":{PORT}", Path("/data"), Path("/sidecar")),
        "env": [{"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}} for name, key in _KEYS],
        "ports": [{"name": "s3", "containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": "s3"}, "periodSeconds": 1},
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in folders],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": name, "emptyDir": {}} for name in folders],
    }
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "s3", "labels": _LABELS},
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s3"},
            "spec": {"selector": _LABELS, "ports": [{"port": PORT, "targetPort": "s3"}]},
        },
    ]
