"""Image stores: one containerd root that holds the images (the template), and cheap clones of it for the nodes.

Layers never change once unpacked (they are overlayfs' lower directories), so a node's root shares them with the
template by hard links, and only containerd's small databases are copied. Gigabytes of images thus exist once, and a
node's store is ready in seconds. Used by ``images`` (fills the template) and ``node`` (clones it, and follows it while
the node runs).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from peftjob_cluster.children import Children
from peftjob_cluster.layers import ContentParts, Parts, write_image
from peftjob_cluster.paths import Layout
from peftjob_cluster.shell import ClusterError, run, succeeds

NAMESPACE = "k8s.io"
CONTENT = "io.containerd.content.v1.content/blobs/sha256"
SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"
DATABASES = ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db")

TEMPLATE_CONFIG = """\
version = 2
root = "@FOLDER@/root"
state = "@FOLDER@/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "@FOLDER@/containerd.sock"
"""


@dataclass(frozen=True)
class Store:
    """A containerd root with images in it; its index says which, so that nobody has to ask containerd."""

    folder: Path
    socket: Path | None = None

    def images(self) -> dict[str, dict[str, str]]:
        """Return the images that are in the store: by tag the image's id and its manifest's digest."""
        return dict(self._index().get("images", {}))

    def lineage(self) -> str:
        """Return a word that changes when the store is made anew; a clone has its origin's."""
        return str(self._index().get("lineage", ""))

    def add(self, tag: str, image: str, parts: Parts) -> None:
        """Copy an image in, and only those of its layers that are not here yet."""
        self._import(lambda stream: write_image(parts, tag, self._blobs(), stream))
        entry = {"id": image, "manifest": json.dumps(parts.manifest)}
        lineage = self.lineage() or str(uuid.uuid4())
        self._write_index({**self._index(), "images": {**self.images(), tag: entry}, "lineage": lineage})

    def follow(self, origin: Store) -> list[str]:
        """Copy in what the origin has and this store has not; returns the tags. The origin's containerd may rest."""
        wanted = {tag: image for tag, image in origin.images().items() if self.images().get(tag) != image}
        for tag, image in wanted.items():
            self.add(tag, image["id"], ContentParts(origin.folder / "root" / CONTENT, json.loads(image["manifest"])))
        return list(wanted)

    def clone_to(self, node: Store) -> None:
        """Make a node's image store what this one is, whatever the node's last life left in it; neither may run."""
        source, target = self.folder / "root", node.folder / "root"
        before = node._index()
        if before.get("lineage") != self.lineage() or "snapshots" not in before:
            shutil.rmtree(node.folder, ignore_errors=True)
            before = {"snapshots": []}
        (node.folder / "index.json").unlink(missing_ok=True)
        (target / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
        pristine = set(before["snapshots"])
        wanted = {path.name for path in (source / SNAPSHOTS).iterdir()}
        for path in (target / SNAPSHOTS).iterdir():
            if path.name not in pristine & wanted:
                shutil.rmtree(path)
        missing = sorted(wanted - {path.name for path in (target / SNAPSHOTS).iterdir()})
        if missing:
            run(["cp", "-al", *(source / SNAPSHOTS / name for name in missing), target / SNAPSHOTS])
        for other in sorted(path for path in target.iterdir() if path.name != SNAPSHOTS.split("/")[0]):
            shutil.rmtree(other)
        shutil.copytree(source / CONTENT, target / CONTENT, copy_function=os.link)
        for database in DATABASES:
            # Not a hard link: both containerds write theirs in place.
            (target / database).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / database, target / database)
        node._write_index({**self._index(), "snapshots": sorted(wanted)})

    def _blobs(self) -> set[str]:
        return {path.name for path in (self.folder / "root" / CONTENT).glob("*")}

    def _index(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "index.json").read_text()))
        except (OSError, ValueError):
            return {}

    def _write_index(self, index: dict[str, Any]) -> None:
        partial = self.folder / "index.json.partial"
        partial.write_text(json.dumps(index, indent=1))
        partial.replace(self.folder / "index.json")

    def _import(self, write: Callable[[IO[bytes]], None]) -> None:
        command = ["ctr", "-a", str(self.socket), "-n", NAMESPACE, "images", "import", "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ctr:
            assert ctr.stdin is not None
            assert ctr.stdout is not None
            try:
                write(ctr.stdin)
                ctr.stdin.close()
            except BrokenPipeError:
                pass  # ctr says below what it did not like
            output = ctr.stdout.read().decode()
        if ctr.returncode != 0:
            raise ClusterError(f"importing an image failed: {output}")


@contextmanager
def serving(layout: Layout) -> Iterator[Store]:
    """Run a containerd over the template while the context lasts, for adding to it."""
    folder = layout.template
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "index.json").exists():
        shutil.rmtree(folder / "root", ignore_errors=True)  # a first import that was killed
    config, socket = folder / "containerd.toml", folder / "containerd.sock"
    config.write_text(TEMPLATE_CONFIG.replace("@FOLDER@", str(folder)))
    children = Children(layout.log)
    children.start("containerd-template", ["containerd", "--config", config])
    try:
        children.wait("containerd", lambda: succeeds(["ctr", "-a", socket, "version"]), 30)
        yield Store(folder, socket)
    finally:
        children.stop("containerd-template")
