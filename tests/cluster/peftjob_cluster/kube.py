"""A Kubernetes API client of a few lines, for the standard library only.

Used to set clusters up and to wait for them, and handed to tests as ``ControlPlane.api``; a test of the operator's own
client uses that client.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from peftjob_cluster.pki import Identity
from peftjob_cluster.shell import ClusterError

JSON = dict[str, Any]


class ApiError(ClusterError):
    """The API server said no; ``status`` is the HTTP status and ``reason`` Kubernetes' own word for it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status
        try:
            self.reason = str(json.loads(text).get("reason", ""))
        except (ValueError, AttributeError):
            self.reason = ""


class Api:
    """The API server as one user sees it; a connection for each request, so it may be used from any thread."""

    def __init__(self, server: str, authority: Path, identity: Identity) -> None:
        self.server = server
        self._address = urlsplit(server).netloc
        self._context = ssl.create_default_context(cafile=str(authority))
        self._context.load_cert_chain(identity.certificate, identity.key)

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """Send one request; returns the decoded JSON, or the text where the answer is none."""
        connection = http.client.HTTPSConnection(self._address, timeout=30, context=self._context)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": content_type, "User-Agent": "peftjob-cluster"})
            answer = connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise ClusterError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise ApiError(answer.status, text)
        return json.loads(text) if "json" in (answer.getheader("Content-Type") or "") else text

    def get(self, path: str) -> Any:
        """Read an object, a list, or a text such as ``/readyz``."""
        return self.request("GET", path)

    def create(self, path: str, body: JSON) -> Any:
        """Create an object in the collection at ``path``."""
        return self.request("POST", path, body)

    def replace(self, path: str, body: JSON) -> Any:
        """Replace an object."""
        return self.request("PUT", path, body)

    def merge(self, path: str, body: JSON) -> Any:
        """Change some fields of an object (JSON merge patch)."""
        return self.request("PATCH", path, body, "application/merge-patch+json")

    def apply(self, path: str, body: JSON) -> Any:
        """Make an object what ``body`` says (server-side apply), whether it exists or not."""
        return self.request(
            "PATCH", f"{path}?fieldManager=peftjob-cluster&force=true", body, "application/apply-patch+yaml"
        )

    def delete(self, path: str) -> Any:
        """Delete an object or a whole collection, at once."""
        return self.request("DELETE", path, {"propagationPolicy": "Background", "gracePeriodSeconds": 0})

    def watch(self, path: str) -> Iterator[JSON]:
        """Yield the events of a collection (``type`` and ``object``) as they come, until the connection is closed."""
        connection = http.client.HTTPSConnection(self._address, context=self._context)
        try:
            connection.request("GET", f"{path}?watch=true", headers={"User-Agent": "peftjob-cluster"})
            answer = connection.getresponse()
            if answer.status >= 400:
                raise ApiError(answer.status, answer.read().decode())
            for line in answer:
                yield json.loads(line)
        finally:
            connection.close()

    def ready(self) -> bool:
        """Tell whether the API server serves; a ClusterError or an OSError means the same as false."""
        return bool(self.get("/readyz") == "ok")
