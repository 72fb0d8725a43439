"""The ``images`` verb: the base image, the test cluster's own small images, and ours; each built only when it changed.

What is built goes into the template (``template``), from which ``up`` makes the nodes' image stores.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from peftjob_cluster import template
from peftjob_cluster.buildah import Buildah
from peftjob_cluster.daemons import marked
from peftjob_cluster.paths import STATE_VARIABLE, Layout, repository
from peftjob_cluster.shell import ClusterError, run, say

BASE = "docker.io/library/debian:bookworm-slim"
PAUSE = "localhost/pause:dev"
S3 = "localhost/s3:dev"
OPERATOR = "localhost/peftjob-operator:dev"
TRAINER = "localhost/peftjob-trainer:dev"

# What the official slim image leaves out of a minimal Debian.
SLIM = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt", "var/lib/apt/lists")
SLIM_VERSION = "1"


@dataclass(frozen=True)
class Static:
    """An image of nothing but one of our static programs."""

    tag: str
    program: str

    def dockerfile(self) -> str:
        """Return its Dockerfile."""
        return f'FROM scratch\nCOPY {self.program} /{self.program}\nENTRYPOINT ["/{self.program}"]\n'


@dataclass(frozen=True)
class Ours:
    """An image that we ship, built from the repository's root; ``sources`` are all it may depend on."""

    tag: str
    dockerfile: str
    extra: str
    sources: tuple[str, ...]


BUILD_SPACE = 25 * 10**9
"""Bytes that have to be free where the libraries of an image are built; at its end buildah has a layer three times."""
STATIC = (Static(PAUSE, "pause"), Static(S3, "versitygw"))
COMMON = (".dockerignore", "pyproject.toml", "constraints.txt", "crds/peftjob_api")
OURS = (
    Ours(OPERATOR, "images/operator/Dockerfile", "operator", (*COMMON, "operator/peftjob_operator")),
    Ours(
        TRAINER,
        "images/trainer/Dockerfile",
        "trainer",
        (*COMMON, "trainer/peftjob_bottleneck", "trainer/peftjob_trainer"),
    ),
)


def require_space(layout: Layout) -> None:
    """Raise where the disk would be full before the images are built, which breaks whatever else runs meanwhile."""
    if all(has_libraries(layout, image) for image in OURS):
        return
    place = next(folder for folder in (layout.root, *layout.root.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < BUILD_SPACE:
        raise ClusterError(
            f"Building the images takes {BUILD_SPACE / 1e9:.0f} GB of disk, and {place} has {free / 1e9:.1f} GB free. "
            f"Free some, or set {STATE_VARIABLE} to a folder of another disk."
        )


def images(layout: Layout) -> None:
    """Build what changed, and put into the template what it does not have yet."""
    require_space(layout)
    layout.images.mkdir(parents=True, exist_ok=True)
    buildah = Buildah(layout)
    buildah.clear()
    wanted: dict[str, str] = {}
    for static in STATIC:
        wanted[static.tag] = ensure_static(buildah, static)
    for ours in OURS:
        wanted[ours.tag] = ensure_ours(buildah, ours)
    stored = template.Store(layout.template).images()
    missing = {tag: image for tag, image in wanted.items() if stored.get(tag, {}).get("id") != image}
    if missing:
        with template.serving(layout) as store:
            for tag, image in missing.items():
                say(f"storing {tag}")
                store.add(tag, image, buildah.parts(image))


def ensure_base(buildah: Buildah) -> None:
    """Make Debian's slim image from Debian's packages, since no image registry can be taken for granted."""
    if buildah.image_id(BASE) and stamp_of(buildah.layout, BASE).exists():
        return
    say(f"making {BASE} with debootstrap")
    with tempfile.TemporaryDirectory(dir=buildah.layout.images) as folder:
        root = Path(folder) / "root"
        run(["debootstrap", "--variant=minbase", "bookworm", root], env=marked(os.environ, buildah.layout))
        for name in SLIM:
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir(parents=True)
        run(["tar", "--numeric-owner", "-C", root, "-cf", f"{folder}/root.tar", "."])
        shutil.rmtree(root)
        dockerfile = Path(folder) / "Dockerfile"
        dockerfile.write_text('FROM scratch\nADD root.tar /\nCMD ["bash"]\n')
        buildah.build(BASE, dockerfile, Path(folder), network=False)
    write_stamp(buildah.layout, BASE, SLIM_VERSION)


def ensure_static(buildah: Buildah, image: Static) -> str:
    """Return the id of a static program's image, building it when the program changed."""
    program = buildah.layout.bin / image.program
    if not program.exists():
        raise ClusterError(f"{program} is missing: run the verb 'tools' first")
    wanted = digest_of([program])
    return existing(buildah, image.tag, wanted) or build_static(buildah, image, wanted)


def build_static(buildah: Buildah, image: Static, wanted: str) -> str:
    """Build a static program's image."""
    with tempfile.TemporaryDirectory(dir=buildah.layout.images) as folder:
        shutil.copy2(buildah.layout.bin / image.program, folder)
        dockerfile = Path(folder) / "Dockerfile"
        dockerfile.write_text(image.dockerfile())
        buildah.build(image.tag, dockerfile, Path(folder), network=False)
    return built(buildah, image.tag, wanted)


def ensure_ours(buildah: Buildah, image: Ours) -> str:
    """Return the id of an image of ours, building it when something it is made of changed."""
    root = repository()
    wanted = digest_of([root / image.dockerfile, *(root / source for source in image.sources)])
    found = existing(buildah, image.tag, wanted)
    if found:
        return found
    ensure_base(buildah)
    fresh = has_libraries(buildah.layout, image)
    if not fresh:
        # Gigabytes that nothing will use again; a build of the same libraries needs its stages to start from.
        buildah.remove(image.tag)
    say(f"building {image.tag}{'' if fresh else ' with its libraries, which takes minutes'}")
    buildah.build(image.tag, root / image.dockerfile, root, network=True)
    write_stamp(buildah.layout, libraries_of(image), libraries_digest(root, image))
    return built(buildah, image.tag, wanted)


def has_libraries(layout: Layout, image: Ours) -> bool:
    """Tell whether the image of the last build has the libraries that are wanted now."""
    stamp = stamp_of(layout, libraries_of(image))
    return stamp.exists() and stamp.read_text() == libraries_digest(repository(), image)


def libraries_of(image: Ours) -> str:
    """Return what the libraries of an image are called among the stamps."""
    return f"{image.tag}-libraries"


def libraries_digest(root: Path, image: Ours) -> str:
    """Return a hash of what decides an image's libraries, the slow part of its build."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    requirements = [project["dependencies"], project["optional-dependencies"][image.extra]]
    return digest_of([root / image.dockerfile, root / "constraints.txt"], json.dumps(requirements))


def existing(buildah: Buildah, tag: str, wanted: str) -> str | None:
    """Return the id of an image that was built from what is wanted now."""
    stamp = stamp_of(buildah.layout, tag)
    return buildah.image_id(tag) if stamp.exists() and stamp.read_text() == wanted else None


def built(buildah: Buildah, tag: str, wanted: str) -> str:
    """Note what a new image was built from, and return its id."""
    image = buildah.image_id(tag)
    if image is None:
        raise ClusterError(f"{tag} is not in the store after its build")
    write_stamp(buildah.layout, tag, wanted)
    return image


def stamp_of(layout: Layout, tag: str) -> Path:
    """Return the file that says what an image was built from."""
    return layout.images / "stamps" / tag.replace("/", "_")


def write_stamp(layout: Layout, tag: str, text: str) -> None:
    """Write a stamp."""
    stamp = stamp_of(layout, tag)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(text)


def digest_of(paths: Iterable[Path], extra: str = "") -> str:
    """Return a hash of files, and of all source files under folders, with their names."""
    digest = hashlib.sha256(extra.encode())
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                with file.open("rb") as content:
                    data = hashlib.file_digest(content, "sha256").digest()
                digest.update(str(file.relative_to(path.parent)).encode() + b"\0" + data)
    return digest.hexdigest()
