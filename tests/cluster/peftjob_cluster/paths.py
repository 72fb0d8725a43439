"""Where things are: the repository, and the one state folder that everything this package makes lives in.

Used by every other module; nothing here touches the disk.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

STATE_VARIABLE = "PEFTJOB_CLUSTER_DIR"


def repository() -> Path:
    """Return the root of the work tree that holds this package."""
    return Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Layout:
    """The folders of one cluster; two clusters in two folders do not meet."""

    root: Path

    @classmethod
    def default(cls) -> Layout:
        """Return the layout in ``PEFTJOB_CLUSTER_DIR``, or in ``.cluster`` at the root of the repository."""
        return cls(Path(os.environ.get(STATE_VARIABLE) or repository() / ".cluster").resolve())

    @property
    def bin(self) -> Path:
        """Go-built binaries; kept until ``down --all`` and beyond."""
        return self.root / "bin"

    @property
    def log(self) -> Path:
        """Logs of the components and the audit log; kept by ``down``, renewed by ``up``."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """Everything of one life of the cluster: process records, certificates, etcd's data; gone after ``down``."""
        return self.root / "run"

    @property
    def pki(self) -> Path:
        """Certificates, keys and kubeconfigs of this life of the cluster."""
        return self.run / "pki"

    @property
    def template(self) -> Path:
        """The containerd root that holds our images, and from which the nodes' roots are cloned."""
        return self.root / "template"

    @property
    def images(self) -> Path:
        """Stamps of the images that were built, and buildah's own store."""
        return self.root / "images"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; of use inside the control plane's namespace only."""
        return self.pki / "admin.kubeconfig"

    def node(self, name: str) -> Path:
        """Return the folder of one node."""
        return self.root / "nodes" / name

    def namespace(self, host: str) -> str:
        """Return the name of the network namespace of ``cp``, ``n1`` or ``n2``; it differs between state folders."""
        return f"pj-{hashlib.sha256(str(self.root).encode()).hexdigest()[:6]}-{host}"
