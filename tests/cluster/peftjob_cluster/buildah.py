"""Buildah with a store of its own under the state folder: nothing of the machine's own images is seen or changed.

Used by ``images``. Builds run as root with the machine's network, and get its certificate bundle and package index if
it has special ones: a site with a proxy of its own builds the same Dockerfiles.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from peftjob_cluster.daemons import marked
from peftjob_cluster.layers import BuildahParts
from peftjob_cluster.paths import Layout
from peftjob_cluster.shell import ClusterError, run

BUNDLE_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
INDEX_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
BUNDLE_IN_BUILD = "/run/ca-bundle.crt"
UV_CACHE_IN_BUILD = "/var/cache/uv-of-host"


@dataclass(frozen=True)
class Buildah:
    """The one store of a cluster's image builds."""

    layout: Layout

    @property
    def _store(self) -> list[str]:
        folder = self.layout.images
        return ["--root", f"{folder}/store", "--runroot", f"{folder}/runroot", "--storage-driver", "overlay"]

    def run(self, verb: str, *args: str | Path) -> str:
        """Run a buildah command and return its output."""
        return run(["buildah", *self._store, verb, *args], env=self._environment())

    def build(self, tag: str, dockerfile: Path, context: Path, *, network: bool) -> None:
        """Build an image; its layers are kept, so that the next build starts from the first one that changed."""
        command = ["buildah", *self._store, "bud", "--layers", "--isolation", "chroot", "--pull-never", "--quiet"]
        command += ["--signature-policy", str(self._policy()), "--format", "oci"]
        command += [*site_arguments()] if network else []
        command += ["--network", "host", "--tag", tag, "--file", str(dockerfile), str(context)]
        log = self.layout.log / f"build-{tag.rpartition('/')[2].partition(':')[0]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            done = subprocess.run(command, stdout=output, stderr=output, env=self._environment(), check=False)
        if done.returncode != 0:
            self.clear()
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            raise ClusterError(f"building {tag} failed; the end of {log}:\n{tail}")

    def image_id(self, tag: str) -> str | None:
        """Return the id of an image in the store, if it is there."""
        try:
            return self.run("images", "--quiet", "--no-trunc", tag).split()[0].removeprefix("sha256:")
        except (ClusterError, IndexError):
            return None

    def parts(self, image: str) -> BuildahParts:
        """Return the parts of an image, by its id, for copying them out of the store."""
        return BuildahParts(self.layout.images / "store", image)

    def remove(self, tag: str) -> None:
        """Remove an image, and every stage of earlier builds that no image stands on."""
        if self.image_id(tag):
            self.run("rmi", "--force", tag)
        self.run("rmi", "--prune")

    def clear(self) -> None:
        """Remove the working containers of builds that failed or were killed, gigabytes each, and their mounts."""
        if (self.layout.images / "store").exists():
            self.run("rm", "--all")

    def _environment(self) -> dict[str, str]:
        temporary = self.layout.images / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        registries = self.layout.images / "registries.conf"
        registries.write_text('unqualified-search-registries = ["docker.io"]\n')
        own = {"TMPDIR": str(temporary), "CONTAINERS_REGISTRIES_CONF": str(registries)}
        return {**marked(os.environ, self.layout), **own}

    def _policy(self) -> Path:
        policy = self.layout.images / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        return policy


def site_arguments() -> list[str]:
    """Return the build arguments that this machine's own network needs: certificates, index, and uv's cache."""
    arguments: list[str] = []
    bundle = next((os.environ[name] for name in BUNDLE_VARIABLES if os.environ.get(name)), "")
    if bundle and Path(bundle).is_file():
        arguments += ["--volume", f"{bundle}:{BUNDLE_IN_BUILD}:ro", "--build-arg", f"CA_BUNDLE={BUNDLE_IN_BUILD}"]
    for name in INDEX_VARIABLES:
        if os.environ.get(name):
            arguments += ["--build-arg", f"{name}={os.environ[name]}"]
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache/uv")
    if cache.is_dir():
        arguments += ["--volume", f"{cache}:{UV_CACHE_IN_BUILD}", "--build-arg", f"UV_CACHE_DIR={UV_CACHE_IN_BUILD}"]
    return arguments
