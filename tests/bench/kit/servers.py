"""Storage on loopback whose bytes are counted: a proxy before any server, and a folder that looks like a hub."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

COMMIT = "c" * 40
OWNER = "bench"
_CHUNK = 2**18


class CountingProxy:
    """Passes connections on to a server, and counts what that sends, HTTP headers and all."""

    def __init__(self, target: str) -> None:
        """Listen on loopback; `target` is an http:// address."""
        where = urlsplit(target)
        self._target = (where.hostname, where.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.bytes_sent = 0
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        """Pass on what either side sends, until both have ended."""
        with client, suppress(OSError), socket.create_connection(self._target) as server:
            answers = threading.Thread(target=self._pass, args=(server, client, True), daemon=True)
            answers.start()
            self._pass(client, server, False)
            answers.join()

    def _pass(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        try:
            while chunk := source.recv(_CHUNK):
                if counts:
                    with self._lock:
                        self.bytes_sent += len(chunk)
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for side in (source, sink):  # either may hang up: then the other way ends, too
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)


@contextmanager
def counted(storage: dict[str, Any] | None) -> Iterator[tuple[dict[str, Any] | None, CountingProxy | None]]:
    """Yield a `spec.storage` that leads through a proxy of this process, and the proxy; None where there is none."""
    kind = next((kind for kind in ("s3", "huggingFace") if kind in (storage or {})), None)
    if storage is None or kind is None:
        yield storage, None
        return
    with CountingProxy(storage[kind]["endpoint"]) as proxy:
        yield {**storage, kind: {**storage[kind], "endpoint": proxy.endpoint}}, proxy


class _Hub(BaseHTTPRequestHandler):
    """Answers for folders as a hub does for models."""

    protocol_version = "HTTP/1.1"
    folders: Path

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].split("/")[1:]
        if parts[:2] == ["api", "models"]:
            names = [path.name for path in (self.folders / parts[3]).iterdir() if path.is_file()]
            listing = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._say(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
            return
        file = self.folders / parts[1] / parts[-1]
        if parts[2:4] != ["resolve", COMMIT] or not file.is_file():
            self._say(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        size = file.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, size - 1)
        headers = {"ETag": f'"{file.name}-{size}"', "X-Repo-Commit": COMMIT}
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        with file.open("rb") as stream:
            stream.seek(first)
            body = stream.read(last - first + 1) if self.command == "GET" else b""
        self._say(206 if wanted else 200, body, headers, last - first + 1)

    def _say(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body) if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def hub(folders: Path) -> Iterator[str]:
    """Serve each folder in a folder as the model `OWNER`/NAME; yield the hub's address."""
    handler = type("Bound", (_Hub,), {"folders": folders})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
