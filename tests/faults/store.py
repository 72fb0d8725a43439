"""The lab's S3: a proxy before a real server, that can be away, slow or failing, holds writes, and keeps the claims.

It knows what each request is for, so that a fault can hit while a certain object is being written, and it sees each
change of a claim in the store's own order, so that what a superseded gang got accepted would be seen.
"""

import http.client
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from peftjob_api.constants import CHECKPOINTS_FOLDER, CLAIM_NAME, MANIFEST_NAME

from .judging import Acceptance
from .plans import Write

BUCKET: Final = "adapters"
_SLOW_SECONDS: Final = 0.7
_HELD_SECONDS: Final = 8.0
"""A write is held no longer than that for its strike."""
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "expect"})


def job_of(path: str) -> str:
    """Return the job at whose output a request's path lies: /BUCKET/NAMESPACE/JOB/KEY."""
    parts = unquote(urlsplit(path).path).strip("/").split("/")
    return parts[2] if len(parts) > 3 and parts[0] == BUCKET else ""


def write_of(path: str) -> Write | None:
    """Return what an object at an output is for."""
    key = "/".join(unquote(urlsplit(path).path).strip("/").split("/")[3:])
    if key == CLAIM_NAME:
        return Write.CLAIM
    if key == MANIFEST_NAME:
        return Write.MANIFEST
    return Write.CHECKPOINT if key.startswith(f"{CHECKPOINTS_FOLDER}/") else Write.ADAPTER


@dataclass
class Trap:
    """A strike that waits for a write."""

    write: Write
    passes: int
    """How many of the kind are let through before."""
    sprung: threading.Event
    """Set when the write has come."""
    struck: threading.Event
    """The write goes on when this is set."""


class StoreProxy:
    """Passes S3 requests on to a server on loopback, unless told otherwise."""

    def __init__(self, address: str, target: str) -> None:
        """Listen on a free port of an address; `target` is the server's http:// address."""
        where = urlsplit(target)
        self._target = (str(where.hostname), int(where.port or 80))
        self._lock = threading.Lock()
        self._claims: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._traps: dict[str, Trap] = {}
        self.away = self.slow = self.failing = 0
        """How many strikes of that kind last."""
        self.accepted: dict[str, list[Acceptance]] = defaultdict(list)
        """The changes of each job's claim."""
        proxy = self

        class Handler(_Handler):
            """Bound to this proxy."""

            owner = proxy

        self._server = _Server((address, 0), Handler)
        self.endpoint = f"http://{address}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def change(self, what: str, by: int) -> None:
        """Begin (1) or end (-1) one strike: `away`, `slow` or `failing`."""
        with self._lock:
            setattr(self, what, getattr(self, what) + by)

    def is_away(self) -> bool:
        """Tell whether nobody gets an answer."""
        return self.away > 0

    def set_trap(self, job: str, trap: Trap | None) -> None:
        """Let a strike wait for a write of a job; None: none does any more."""
        with self._lock:
            if trap is None:
                self._traps.pop(job, None)
            else:
                self._traps[job] = trap

    def spring(self, job: str, write: Write | None) -> None:
        """Hold a write that a strike waits for, until that has struck."""
        with self._lock:
            trap = self._traps.get(job)
            if trap is None or trap.write is not write or trap.sprung.is_set():
                return
            trap.passes -= 1
            if trap.passes >= 0:
                return
            trap.sprung.set()
        trap.struck.wait(_HELD_SECONDS)

    def forward(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Pass a request on; return status, headers and body of the answer."""
        job = job_of(path)
        if method == "PUT" and job and write_of(path) is Write.CLAIM:
            with self._claims[job]:  # one at a time, so that our order is the store's
                answer = self._forward(method, path, headers, body)
                if answer[0] == 200:
                    record = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
                    self.accepted[job].append(Acceptance(record["number"], record["attempt"], record["gang"]))
                return answer
        return self._forward(method, path, headers, body)

    def _forward(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self._target, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed while they speak."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: StoreProxy
    timeout = 60

    def _pass(self) -> None:
        owner = self.owner
        if owner.is_away():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if owner.slow:
            time.sleep(_SLOW_SECONDS)
        if owner.failing:
            text = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
            self._answer(503, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else text)
            return
        if self.command in ("PUT", "POST") and (job := job_of(self.path)):
            owner.spring(job, write_of(self.path))
        status, headers, data = owner.forward(self.command, self.path, list(self.headers.items()), body)
        if owner.is_away():  # the write arrived, its answer does not
            self.close_connection = True
            return
        self._answer(status, headers, data)

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP and (name.lower() != "content-length" or self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
