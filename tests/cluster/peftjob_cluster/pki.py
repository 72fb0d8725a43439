"""A certificate authority of a test cluster's own, and kubeconfigs for the users it vouches for.

Certificates rather than a token file: a user with any name and groups can be made while the API server runs, and
every connection verifies the other end, as in a cluster of people's own. Used by ``control_plane`` and ``lifecycle``.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftjob_cluster.shell import run

EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
DAYS = "30"


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, both as PEM files."""

    certificate: Path
    key: Path


def subject(name: str, groups: Sequence[str]) -> str:
    """Return openssl's way to write a Kubernetes user: groups are organisations, the name is the common name."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace("/", "\\/").replace("+", "\\+")

    return "".join(f"/O={escaped(group)}" for group in groups) + f"/CN={escaped(name)}"


class Authority:
    """The certificate authority in a folder; ``create`` once, ``issue`` as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self.key = folder / "ca.key"
        self.service_account_key = folder / "service-accounts.key"

    def create(self) -> None:
        """Make the authority and the key that signs service account tokens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files: list[str | Path] = ["-keyout", self.key, "-out", self.certificate]
        who = ["-subj", "/CN=peftjob-test-authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        run(["openssl", "req", "-x509", *EC_KEY, "-days", DAYS, *files, *who])
        run(["openssl", "genpkey", "-algorithm", "RSA", "-out", self.service_account_key])

    def issue(
        self, file: str, name: str, groups: Sequence[str] = (), *, hosts: Sequence[str] = (), ips: Sequence[str] = ()
    ) -> Identity:
        """Issue a certificate for a user, a server, or both."""
        identity = Identity(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        request = run(["openssl", "req", "-new", *EC_KEY, "-keyout", identity.key, "-subj", subject(name, groups)])
        names = [f"DNS:{host}" for host in hosts] + [f"IP:{ip}" for ip in ips]
        extensions = [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            "extendedKeyUsage=serverAuth,clientAuth",
            "subjectKeyIdentifier=hash",
            "authorityKeyIdentifier=keyid",
            *([f"subjectAltName={','.join(names)}"] if names else []),
        ]
        settings = self.folder / f"{file}.ext"
        settings.write_text("\n".join(extensions) + "\n")
        signer: list[str | Path] = [
            "-CA",
            self.certificate,
            "-CAkey",
            self.key,
            "-set_serial",
            f"0x{secrets.token_hex(8)}",
        ]
        files: list[str | Path] = ["-extfile", settings, "-out", identity.certificate]
        run(["openssl", "x509", "-req", "-days", DAYS, *signer, *files], stdin=request)
        settings.unlink()
        return identity

    def kubeconfig(self, path: Path, server: str, identity: Identity, namespace: str = "default") -> Path:
        """Write a self-contained kubeconfig (JSON is YAML) for one identity."""

        def data(file: Path) -> str:
            return base64.b64encode(file.read_bytes()).decode()

        user = {"client-certificate-data": data(identity.certificate), "client-key-data": data(identity.key)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": server, "certificate-authority-data": data(self.certificate)}}
            ],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))
        return path
