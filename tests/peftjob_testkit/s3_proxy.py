"""A proxy in front of an S3 server that fails as it is told: refuses, answers with errors, loses answers.

Used by tests/integration/trainer. It counts the requests, so that a test can fail each of them in turn.
"""

import http.client
import http.server
import sys
import threading
import urllib.parse
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from peftjob_cluster.s3 import S3Server

Fault = Literal["refused", "lost", "internal error", "slow down", "full", "expired", "no backend"]
"""`refused`: the connection ends before anything is done; `lost`: after all is done, as when an answer takes longer
than the client waits. Others are answers."""
_ANSWERS: dict[str, tuple[int, str]] = {
    "internal error": (500, "InternalError"),
    "slow down": (503, "SlowDown"),
    "full": (507, "XMinioStorageFull"),
    "expired": (403, "ExpiredToken"),
    "no backend": (404, ""),
}


class S3Proxy(http.server.ThreadingHTTPServer):
    """Forwards what it is not told to fail, on loopback, between `with` and its end."""

    daemon_threads = True

    def __init__(self, s3: S3Server, drop: tuple[str, ...] = ()) -> None:
        """Prepare.

        Args:
            s3: The server behind.
            drop: Headers, in lower case, that are taken out of requests (which are signed anew).
        """
        self.target = urllib.parse.urlsplit(s3.endpoint).netloc
        self.signer = SigV4Auth(Credentials(s3.access_key, s3.secret_key), "s3", s3.region)
        self.drop = drop
        self.requests = 0
        """So far."""
        self.fails: Callable[[int, str, str], Fault | None] = lambda number, method, path: None
        """Tells by a request's number (from 0), method and path how it fails."""
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, method: str, path: str) -> Fault | None:
        """Count a request; return how it fails."""
        with self._lock:
            number, self.requests = self.requests, self.requests + 1
        return self.fails(number, method, path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def __enter__(self) -> "S3Proxy":
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and content go apart, and the client acknowledges late
    server: S3Proxy

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault(self.command, self.path)
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            page = f"<Error><Code>{code}</Code><Message>as a test asked for</Message></Error>" if code else "<html/>"
            return self._say(status, [("Content-Type", "application/xml")], page.encode())
        self.close_connection = fault is not None
        if fault == "refused":
            return None
        status, headers, content = self._forward(body)
        return None if fault == "lost" else self._say(status, headers, content)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
        if any(name in self.server.drop for name in map(str.lower, headers)):
            signed = (*self.server.drop, "authorization", "x-amz-date", "host")
            kept = {k: v for k, v in headers.items() if k.lower() not in signed}
            request = AWSRequest(self.command, f"http://{self.server.target}{self.path}", kept, body)
            self.server.signer.add_auth(request)
            headers = dict(request.headers.items())
        connection = http.client.HTTPConnection(self.server.target, timeout=10)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _say(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), None)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
