"""The command lines of etcd and of the control plane's programs: pure functions, the same for both kinds of cluster.

``control_plane`` runs them on loopback for integration tests, ``lifecycle`` in a network namespace with real nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftjob_cluster.pki import Authority, Identity

SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
CLUSTER_DNS_IP = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"
API_HOSTS = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
ADMINISTRATORS = "system:masters"

AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules: [{level: Metadata}]
"""


@dataclass(frozen=True)
class Endpoints:
    """Where the control plane listens."""

    host: str
    api: int = 6443
    etcd: int = 2379
    etcd_peer: int = 2380

    @property
    def api_url(self) -> str:
        """The API server's address."""
        return f"https://{self.host}:{self.api}"

    @property
    def etcd_url(self) -> str:
        """The store's address; always on loopback."""
        return f"http://127.0.0.1:{self.etcd}"


def etcd(bin_: Path, data: Path, at: Endpoints) -> list[str]:
    """Return etcd's command line; its data outlives no test, so it never waits for the disk."""
    peer = f"http://127.0.0.1:{at.etcd_peer}"
    return [
        str(bin_ / "etcd"),
        f"--data-dir={data}",
        f"--listen-client-urls={at.etcd_url}",
        f"--advertise-client-urls={at.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(
    bin_: Path,
    at: Endpoints,
    authority: Authority,
    serving: Identity,
    kubelet_client: Identity,
    *,
    audit_log: Path,
    audit_policy: Path,
    nodes: bool,
    extra: Sequence[str] = (),
) -> list[str]:
    """Return the API server's command line; without ``nodes`` it need not be reachable from anywhere."""
    return [
        str(bin_ / "kube-apiserver"),
        f"--etcd-servers={at.etcd_url}",
        f"--secure-port={at.api}",
        f"--bind-address={at.host}",
        f"--advertise-address={at.host}",
        *([] if nodes else ["--endpoint-reconciler-type=none"]),
        f"--cert-dir={authority.folder}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.certificate}",
        f"--kubelet-certificate-authority={authority.certificate}",
        f"--kubelet-client-certificate={kubelet_client.certificate}",
        f"--kubelet-client-key={kubelet_client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={authority.service_account_key}",
        f"--service-account-signing-key-file={authority.service_account_key}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--allow-privileged",
        "--profiling=false",
        f"--audit-policy-file={audit_policy}",
        f"--audit-log-path={audit_log}",
        *extra,
    ]


def controller_manager(
    bin_: Path, kubeconfig: Path, authority: Authority, *, node_grace_seconds: int = 24, extra: Sequence[str] = ()
) -> list[str]:
    """Return the controller manager's command line; it serves nothing, so two never want the same port."""
    return [
        str(bin_ / "kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={authority.service_account_key}",
        f"--root-ca-file={authority.certificate}",
        f"--node-monitor-grace-period={node_grace_seconds}s",
        "--leader-elect=false",
        "--secure-port=0",
        *extra,
    ]


def scheduler(bin_: Path, kubeconfig: Path, extra: Sequence[str] = ()) -> list[str]:
    """Return the scheduler's command line."""
    return [
        str(bin_ / "kube-scheduler"),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        *extra,
    ]
