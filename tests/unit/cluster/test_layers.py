"""A layer put together from buildah's store is the very tar that buildah made, and known layers are not sent."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from peftjob_cluster import template
from peftjob_cluster.layers import BuildahParts, write_image


def a_layer(folder: Path, files: dict[str, bytes]) -> tuple[bytes, list[dict[str, Any]]]:
    """Return a tar and its tar-split entries; the files lie in the folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    whole = stream.getvalue()
    entries: list[dict[str, Any]] = []
    at = 0
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        for member in archive:
            entries.append({"type": 2, "payload": base64.b64encode(whole[at : member.offset_data]).decode()})
            at = member.offset_data + member.size
            key = {"name": member.name} if member.name.isascii() else raw_name(member.name)
            entries.append({"type": 1, "payload": "", **key, **({"size": member.size} if member.size else {})})
    entries.append({"type": 2, "payload": base64.b64encode(whole[at:]).decode()})
    return whole, entries


def raw_name(name: str) -> dict[str, str]:
    return {"name_raw": base64.b64encode(name.encode()).decode()}


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class BuildahStore:
    """What buildah's store holds of one image with one layer."""

    folder: Path

    def fill(self, files: dict[str, bytes]) -> bytes:
        layer, image = "l1", "i1"
        whole, entries = a_layer(self.folder / "overlay" / layer / "diff", files)
        for name in ("overlay-layers", f"overlay-images/{image}"):
            (self.folder / name).mkdir(parents=True)
        with gzip.open(self.folder / "overlay-layers" / f"{layer}.tar-split.gz", "wt") as lines:
            lines.writelines(json.dumps(entry) + "\n" for entry in entries)
        (self.folder / "overlay-layers/layers.json").write_text(
            json.dumps([{"id": layer, "diff-digest": digest(whole)}])
        )
        config = b'{"os": "linux"}'
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {
            "mediaType": kind,
            "config": {"digest": digest(config)},
            "layers": [{"digest": digest(whole), "size": len(whole)}],
        }
        data = json.dumps(manifest).encode()
        (self.folder / "overlay-images" / image / "manifest").write_bytes(data)
        key = "=" + base64.b64encode(digest(config).encode()).decode()
        (self.folder / "overlay-images" / image / key).write_bytes(config)
        record = {"id": image, "digest": digest(data), "big-data-sizes": {"manifest": len(data)}}
        (self.folder / "overlay-images/images.json").write_text(json.dumps([record]))
        return whole


def parts_in(stream: IO[bytes]) -> dict[str, bytes]:
    with tarfile.open(fileobj=stream) as archive:
        return {member.name: read(archive, member) for member in archive}


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    assert content is not None
    return content.read()


def test_an_image_from_buildahs_store_is_what_buildah_made(tmp_path: Path) -> None:
    whole = BuildahStore(tmp_path).fill({"a/empty": b"", "a/small": b"x", "big": bytes(3 << 20), "ümlaut": b"y" * 513})
    stream = io.BytesIO()
    write_image(BuildahParts(tmp_path, "i1"), "localhost/a:dev", set(), stream)
    stream.seek(0)
    parts = parts_in(stream)
    assert parts[f"blobs/sha256/{digest(whole)[7:]}"] == whole
    for name, data in parts.items():
        if name.startswith("blobs/"):
            assert digest(data)[7:] == Path(name).name
    index = json.loads(parts["index.json"])
    assert [one["annotations"]["io.containerd.image.name"] for one in index["manifests"]] == ["localhost/a:dev"]
    assert f"blobs/sha256/{index['manifests'][0]['digest'][7:]}" in parts


def test_layers_that_the_receiver_knows_are_not_sent(tmp_path: Path) -> None:
    whole = BuildahStore(tmp_path).fill({"a": b"x"})
    stream = io.BytesIO()
    write_image(BuildahParts(tmp_path, "i1"), "localhost/a:dev", {digest(whole)[7:]}, stream)
    stream.seek(0)
    parts = parts_in(stream)
    assert len(parts) == 4
    assert f"blobs/sha256/{digest(whole)[7:]}" not in parts


def make_template(folder: Path, snapshots: dict[str, str], lineage: str) -> template.Store:
    root = folder / "root"
    for name, content in snapshots.items():
        (root / template.SNAPSHOTS / name / "fs").mkdir(parents=True, exist_ok=True)
        (root / template.SNAPSHOTS / name / "fs/file").write_text(content)
    (root / template.CONTENT).mkdir(parents=True, exist_ok=True)
    (root / template.CONTENT / "blob").write_text("blob")
    for database in template.DATABASES:
        (root / database).parent.mkdir(parents=True, exist_ok=True)
        (root / database).write_text("template's")
    (folder / "index.json").write_text(json.dumps({"images": {"t": {"id": "1", "manifest": "{}"}}, "lineage": lineage}))
    return template.Store(folder)


def test_a_node_gets_the_templates_store_whatever_its_last_life_left(tmp_path: Path) -> None:
    origin = make_template(tmp_path / "template", {"1": "one", "2": "two"}, "first")
    node = template.Store(tmp_path / "node")
    origin.clone_to(node)
    snapshots = tmp_path / "node/root" / template.SNAPSHOTS
    assert (snapshots / "1/fs/file").stat().st_ino == (
        tmp_path / "template/root" / template.SNAPSHOTS / "1/fs/file"
    ).stat().st_ino

    # The node lived: a container's snapshot, and its own numbering of what the template numbers differently later.
    (snapshots / "3/fs").mkdir(parents=True)
    (snapshots / "3/fs/file").write_text("the node's own")
    (tmp_path / "node/root" / template.DATABASES[0]).write_text("node's")
    make_template(tmp_path / "template", {"3": "three"}, "first")
    origin.clone_to(node)
    assert sorted(path.name for path in snapshots.iterdir()) == ["1", "2", "3"]
    assert (snapshots / "3/fs/file").read_text() == "three"
    assert (tmp_path / "node/root" / template.DATABASES[0]).read_text() == "template's"
    assert (tmp_path / "template/root" / template.DATABASES[0]).stat().st_nlink == 1
    assert node.images() == origin.images()

    # A clone that was killed half-way, and a template that was made anew.
    (tmp_path / "node/index.json").unlink()
    make_template(tmp_path / "template", {"1": "other"}, "second")
    origin.clone_to(node)
    assert (snapshots / "1/fs/file").read_text() == "other"
    assert node.lineage() == "second"
