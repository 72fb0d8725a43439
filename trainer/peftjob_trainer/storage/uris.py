"""The uris of a PeftJob, taken apart. Their syntax was checked by the API; nothing here touches a network or disk."""

from dataclasses import dataclass
from pathlib import Path

from peftjob_api.constants import PVC_MOUNT_ROOT


@dataclass(frozen=True)
class Location:
    """Where a uri points."""

    scheme: str
    """One of `s3`, `hf`, `file`, `pvc`."""
    container: str
    """The bucket, the claim, or the repository `OWNER/NAME`; empty for files."""
    path: str
    """Below the container, without a `/` at either end; absolute for files."""
    revision: str | None = None
    """Of a data set on the hub."""

    @property
    def local(self) -> Path:
        """The path in this pod's file system, for `file` and `pvc`."""
        if self.scheme == "pvc":
            return Path(PVC_MOUNT_ROOT) / self.container / self.path
        return Path(self.path)

    @property
    def is_local(self) -> bool:
        """Whether the bytes are on a mounted file system and can be used in place."""
        return self.scheme in ("file", "pvc")


def parse(uri: str) -> Location:
    """Take a uri apart that the API's rules accept.

    Raises:
        ValueError: It has none of the known schemes.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return Location(scheme, "", rest.rstrip("/") or "/")
    if scheme in ("s3", "pvc"):
        container, _, path = rest.partition("/")
        return Location(scheme, container, path.strip("/"))
    if scheme == "hf" and rest.startswith("datasets/"):
        owner, _, rest = rest.removeprefix("datasets/").partition("/")
        name, _, path = rest.partition("/")
        name, _, revision = name.partition("@")
        return Location(scheme, f"{owner}/{name}", path, revision or None)
    if scheme == "hf":
        return Location(scheme, rest.rstrip("/"), "")
    raise ValueError(f"{uri}: use s3://, hf://, pvc:// or file://")
