"""An S3 server on loopback for tests: versitygw over a temporary folder, with the conditional writes we rely on.

::

    with S3Server(buckets=["models"]) as s3:
        client = boto3.client("s3", **s3.boto3())
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from peftjob_cluster.children import Children, binaries, free_ports

REGION = "us-east-1"
NAME = "versitygw"


def has_xattrs(folder: Path) -> bool:
    """Tell whether the folder's file system keeps user attributes, where versitygw likes to put metadata."""
    try:
        os.setxattr(folder, "user.peftjob-probe", b"1")
        os.removexattr(folder, "user.peftjob-probe")
    except OSError:
        return False
    return True


def arguments(address: str, data: Path, sidecar: Path | None) -> list[str]:
    """Return versitygw's arguments; keys come from the environment, so that no process list shows them."""
    metadata = ["--sidecar", str(sidecar)] if sidecar else []
    return ["--port", address, "--region", REGION, "--quiet", "posix", *metadata, str(data)]


class S3Server:
    """The server, its folder and its only account; each bucket is a folder, each object a file under it."""

    def __init__(self, folder: Path | None = None, *, buckets: Sequence[str] = ()) -> None:
        """Prepare only; ``start`` or ``with`` starts."""
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="peftjob-s3-"))
        self.data = self.folder / "data"
        self.access_key = "test"
        self.secret_key = secrets.token_hex(16)
        self.region = REGION
        self._buckets = buckets
        self._children = Children(self.folder / "log")
        self._command: list[str] = []
        self.endpoint = ""

    def start(self) -> S3Server:
        """Start the server and wait until it listens."""
        try:
            bin_ = binaries(NAME)
            for bucket in ("", *self._buckets):
                (self.data / bucket).mkdir(parents=True, exist_ok=True)
            (self.folder / "sidecar").mkdir(exist_ok=True)
            self._port = free_ports(1)[0]
            self.endpoint = f"http://127.0.0.1:{self._port}"
            sidecar = None if has_xattrs(self.data) else self.folder / "sidecar"
            self._command = [str(bin_ / NAME), *arguments(f"127.0.0.1:{self._port}", self.data, sidecar)]
            self.resume()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server; a folder of its own making is removed."""
        self._children.stop_all()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def interrupt(self) -> None:
        """Kill the server, to see what its clients make of it; ``resume`` brings it back with its data."""
        self._children.stop(NAME, signal.SIGKILL)

    def resume(self) -> None:
        """Start the server, again or for the first time."""
        keys = {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        self._children.start(NAME, self._command, keys)
        self._children.wait(NAME, self._listens, 20)

    def environment(self) -> dict[str, str]:
        """Return the variables by which AWS clients find the server and its account."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    def boto3(self) -> dict[str, str]:
        """Return the arguments of ``boto3.client("s3", ...)``."""
        return {
            "endpoint_url": self.endpoint,
            "region_name": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
        }

    def _listens(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._port), timeout=1):
            return True

    def __enter__(self) -> S3Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
