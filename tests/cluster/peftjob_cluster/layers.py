"""Parts of images by their digests, read from where they lie: containerd's content store, or buildah's own store.

Buildah keeps a layer as a folder of files and, in tar-split's format, all of the layer's tar but the files' contents.
Putting the two together gives the very tar of the digest. ``buildah push`` does the same but compresses each layer
anew at every push, also those that the receiver has; for gigabytes of libraries that takes a minute.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

from peftjob_cluster.shell import ClusterError

CHUNK = 1 << 20
FILE_ENTRY, SEGMENT_ENTRY = 1, 2


class Parts(Protocol):
    """Where the parts of one image lie."""

    @property
    def manifest(self) -> dict[str, Any]:
        """The descriptor of the image's manifest."""

    def read(self, digest: str) -> bytes:
        """Return a small part: the manifest or the configuration."""

    def open_layer(self, digest: str) -> IO[bytes]:
        """Open a layer's tar."""


@dataclass(frozen=True)
class ContentParts:
    """An image in a containerd's content store, which need not run."""

    folder: Path
    manifest: dict[str, Any]

    def read(self, digest: str) -> bytes:
        """Return a small part."""
        return (self.folder / hexadecimal(digest)).read_bytes()

    def open_layer(self, digest: str) -> IO[bytes]:
        """Open a layer's tar."""
        return (self.folder / hexadecimal(digest)).open("rb")


@dataclass(frozen=True)
class BuildahParts:
    """An image in the store of buildah's overlay driver."""

    store: Path
    image: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The descriptor of the image's manifest."""
        record = next(i for i in self._records("overlay-images/images.json") if i["id"] == self.image)
        kind = json.loads(self._data("manifest"))["mediaType"]
        return {"mediaType": kind, "digest": record["digest"], "size": record["big-data-sizes"]["manifest"]}

    def read(self, digest: str) -> bytes:
        """Return a small part."""
        return self._data("manifest" if digest == self.manifest["digest"] else digest)

    def open_layer(self, digest: str) -> IO[bytes]:
        """Open a layer's tar."""
        layers = self._records("overlay-layers/layers.json")
        layer = next((one["id"] for one in layers if one.get("diff-digest") == digest), None)
        if layer is None:
            raise ClusterError(f"{digest} is not in {self.store}")
        split = self.store / "overlay-layers" / f"{layer}.tar-split.gz"
        return io.BufferedReader(Chunks(assemble(split, self.store / "overlay" / layer / "diff")), CHUNK)

    def _records(self, file: str) -> list[dict[str, Any]]:
        return list(json.loads((self.store / file).read_text()))

    def _data(self, key: str) -> bytes:
        """Read what the store keeps under a key; it writes keys that hold more than plain letters in base64."""
        name = key if key.isalnum() else "=" + base64.b64encode(key.encode()).decode()
        return (self.store / "overlay-images" / self.image / name).read_bytes()


class Chunks(io.RawIOBase):
    """A stream over pieces of bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what is left of a piece, or with the next one."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def assemble(split: Path, files: Path) -> Iterator[bytes]:
    """Yield a layer's tar from its tar-split and its folder of files."""
    with gzip.open(split, "rt") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["type"] == SEGMENT_ENTRY:
                yield base64.b64decode(entry["payload"])
            elif entry["type"] == FILE_ENTRY and entry.get("size", 0) > 0:
                name = entry.get("name") or base64.b64decode(entry["name_raw"]).decode(errors="surrogateescape")
                with (files / name).open("rb") as content:
                    while piece := content.read(CHUNK):
                        yield piece


def write_image(parts: Parts, tag: str, known: set[str], stream: IO[bytes]) -> None:
    """Write one image as an OCI layout in a tar, without the layers whose digests are known to the receiver."""
    descriptor = {**parts.manifest, "annotations": {"io.containerd.image.name": tag}}
    manifest_bytes = parts.read(descriptor["digest"])
    manifest = json.loads(manifest_bytes)
    small = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode(),
        # The importer wants to see the manifest and the configuration whether it knows them or not.
        blob_path(descriptor["digest"]): manifest_bytes,
        blob_path(manifest["config"]["digest"]): parts.read(manifest["config"]["digest"]),
    }
    with tarfile.open(fileobj=stream, mode="w|", bufsize=CHUNK) as archive:
        for name, data in small.items():
            archive.addfile(entry_of(name, len(data)), io.BytesIO(data))
        for layer in manifest["layers"]:
            if hexadecimal(layer["digest"]) not in known:
                with parts.open_layer(layer["digest"]) as content:
                    archive.addfile(entry_of(blob_path(layer["digest"]), layer["size"]), content)


def entry_of(name: str, size: int) -> tarfile.TarInfo:
    """Return a tar header."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry


def blob_path(digest: str) -> str:
    """Return where an OCI layout keeps a part."""
    return f"blobs/sha256/{hexadecimal(digest)}"


def hexadecimal(digest: str) -> str:
    """Return a digest without its algorithm."""
    return digest.partition(":")[2]
