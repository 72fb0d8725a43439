"""Keys for S3 that may be replaced while a gang works: read from the mounted Secret for each request. Used by `s3`.

The environment of a process never changes, and a finished adapter may wait for hours, by when its keys have expired.
The kubelet renews the files of a mounted Secret about a minute after the Secret itself.
"""

from pathlib import Path
from typing import Any, Final

import boto3
import botocore.session
from botocore.credentials import CredentialProvider, Credentials, ReadOnlyCredentials
from peftjob_api.constants import S3_KEY_NAMES, S3_KEYS_DIR

FOLDER = Path(S3_KEYS_DIR)
_CURRENT: Final = "..data"
"""A link that the kubelet moves when it has written all files anew, so that those of one moment are read."""


class MountedKeys(Credentials):
    """What lies in a folder at the moment of each request; the last that was whole, if nothing whole lies there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = self._read() or ReadOnlyCredentials("", "", None)
        super().__init__(*self._last[:3], method=_Provider.METHOD)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return what a request is signed with."""
        self._last = self._read() or self._last
        return self._last

    def _read(self) -> ReadOnlyCredentials | None:
        linked = self._folder / _CURRENT
        folder = linked.resolve() if linked.exists() else self._folder
        found = [_content(folder / name) for name in S3_KEY_NAMES]
        return ReadOnlyCredentials(*found) if found[0] and found[1] else None


class _Provider(CredentialProvider):
    METHOD = "mounted-secret"
    CANONICAL_NAME = "MountedSecret"

    def load(self) -> Credentials | None:
        """Return the keys, or None where no Secret is mounted, so that the library looks elsewhere."""
        return MountedKeys(FOLDER) if (FOLDER / S3_KEY_NAMES[0]).is_file() else None


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def open_session() -> Any:
    """Return a session of boto3 that takes the mounted keys, or without any what it finds itself."""
    core = botocore.session.get_session()
    core.get_component("credential_provider").insert_before("env", _Provider())
    return boto3.session.Session(botocore_session=core)
