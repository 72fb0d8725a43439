"""What runs in the cluster before anything of ours: its DNS and an S3 server, as Services that pods know by name.

CoreDNS is a program beside the control plane, behind a Service with an EndpointSlice written by hand; the S3 server is
a pod on a fixed node, because ``kubectl port-forward`` wants one behind a Service. Its data lives as long as the
cluster.
"""

from __future__ import annotations

import random
import secrets
import socket
import struct
from pathlib import Path
from typing import Any

from peftjob_cluster import s3
from peftjob_cluster.components import CLUSTER_DNS_IP, CLUSTER_DOMAIN
from peftjob_cluster.images import S3
from peftjob_cluster.kube import Api, ApiError
from peftjob_cluster.network import CONTROL_PLANE_IP
from peftjob_cluster.paths import Layout

JSON = dict[str, Any]
DNS_USER = "system:coredns"
S3_NODE = "n1"
S3_PORT = 7070
S3_USER = 65532

# Nothing outside the cluster can be reached, so every other name is unknown at once.
COREFILE = f"""\
{CLUSTER_DOMAIN}:53 in-addr.arpa:53 {{
  bind {CONTROL_PLANE_IP}
  errors
  kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
    kubeconfig @KUBECONFIG@
    ttl 1
  }}
}}
.:53 {{
  bind {CONTROL_PLANE_IP}
  template ANY ANY . {{
    rcode NXDOMAIN
  }}
}}
"""


def coredns_command(layout: Layout, kubeconfig: Path) -> list[str | Path]:
    """Write CoreDNS' settings and return its command line."""
    corefile = layout.run / "Corefile"
    corefile.write_text(COREFILE.replace("@KUBECONFIG@", str(kubeconfig)))
    return [layout.bin / "coredns", "-conf", corefile]


def apply(api: Api, layout: Layout) -> None:
    """Make the Services and what stands behind them as they should be; the S3 server's keys are made only once."""
    for path, body in [*dns_objects(), *s3_objects(s3_folders(layout))]:
        api.apply(path, body)
    keys = {"AWS_ACCESS_KEY_ID": "peftjob", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}, "stringData": keys}
    try:
        api.create("/api/v1/namespaces/s3/secrets", secret)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def dns_objects() -> list[tuple[str, JSON]]:
    """Return the Service of CoreDNS with its one endpoint, and CoreDNS' rights; each with its path."""
    rbac = "rbac.authorization.k8s.io/v1"
    watch = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": watch},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
    ]
    subject = {"kind": "User", "name": DNS_USER, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "ClusterRole", "name": DNS_USER, "apiGroup": "rbac.authorization.k8s.io"}
    ports = [{"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    service = {"clusterIP": CLUSTER_DNS_IP, "ports": ports}
    labels = {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "peftjob-cluster"}
    endpoints = [{"addresses": [CONTROL_PLANE_IP], "conditions": {"ready": True}}]
    slice_: JSON = {"addressType": "IPv4", "endpoints": endpoints, "ports": ports}
    return [
        (
            f"/apis/{rbac}/clusterroles/{DNS_USER}",
            {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": DNS_USER}, "rules": rules},
        ),
        (
            f"/apis/{rbac}/clusterrolebindings/{DNS_USER}",
            {
                "apiVersion": rbac,
                "kind": "ClusterRoleBinding",
                "metadata": {"name": DNS_USER},
                "subjects": [subject],
                "roleRef": role,
            },
        ),
        (
            "/api/v1/namespaces/kube-system/services/kube-dns",
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns"}, "spec": service},
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-1",
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": "kube-dns-1", "labels": labels},
                **slice_,
            },
        ),
    ]


def s3_folders(layout: Layout) -> dict[str, Path]:
    """Return the S3 server's folders by their names in the pod, after making them."""
    folders = {name: layout.run / "s3" / name for name in ("data", "sidecar")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
    return folders


def s3_objects(folders: dict[str, Path]) -> list[tuple[str, JSON]]:
    """Return the namespace, Service and Deployment of the S3 server, each with its path."""
    labels = {"app": "s3"}
    sidecar = None if s3.has_xattrs(folders["data"]) else Path("/sidecar")
    environment = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "s3-credentials", "key": key}}}
        for name, key in (("ROOT_ACCESS_KEY", "AWS_ACCESS_KEY_ID"), ("ROOT_SECRET_KEY", "AWS_SECRET_ACCESS_KEY"))
    ]
    container = {
        "name": "s3",
        "image": S3,
        "imagePullPolicy": "IfNotPresent",
        "args": s3.arguments(f":{S3_PORT}", Path("/data"), sidecar),
        "env": environment,
        "ports": [{"name": "s3", "containerPort": S3_PORT}],
        "readinessProbe": {"tcpSocket": {"port": "s3"}, "periodSeconds": 1},
        "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in folders],
    }
    pod = {
        "nodeSelector": {"kubernetes.io/hostname": S3_NODE},
        # Its data is on its node: there is nowhere else to go.
        "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
        "securityContext": {"runAsUser": S3_USER, "runAsGroup": S3_USER, "runAsNonRoot": True},
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": n, "hostPath": {"path": str(f), "type": "Directory"}} for n, f in folders.items()],
    }
    deployment = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    service = {"selector": labels, "ports": [{"name": "s3", "port": S3_PORT, "targetPort": "s3"}]}
    return [
        ("/api/v1/namespaces/s3", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "s3"}}),
        (
            "/api/v1/namespaces/s3/services/s3",
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3"}, "spec": service},
        ),
        (
            "/apis/apps/v1/namespaces/s3/deployments/s3",
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "s3"}, "spec": deployment},
        ),
    ]


def s3_answers() -> bool:
    """Tell whether the S3 server can be reached as pods reach it: by its name and its Service."""
    address = resolve(f"s3.s3.svc.{CLUSTER_DOMAIN}")
    if address is None:
        return False
    with socket.create_connection((address, S3_PORT), timeout=1):
        return True


def resolve(name: str) -> str | None:
    """Ask the cluster's DNS for a name's first address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.connect((CLUSTER_DNS_IP, 53))
        number = random.getrandbits(16)
        client.send(dns_query(number, name))
        return dns_address(client.recv(512))


def dns_query(number: int, name: str) -> bytes:
    """Return a question for a name's IPv4 address."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def dns_address(answer: bytes) -> str | None:
    """Return the address in an answer that consists of the question and IPv4 addresses."""
    _, flags, _, answers, *_ = struct.unpack(">HHHHHH", answer[:12])
    if flags & 0xF or not answers:
        return None
    return socket.inet_ntoa(answer[-4:])
