"""A job of two ranks whose base stays on S3 or on a hub: what goes over the wire, and what the log says of it."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from peftjob_cluster.s3 import S3Server

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests/numerics"))

import tiny  # noqa: E402 (after the path)

COMMIT = "c" * 40
SLACK = 64 * 1024
"""Bytes for the header, read once more by each node, and for parameters that are rounded up."""


class Hub(BaseHTTPRequestHandler):
    """A folder as the model acme/tiny of a hub."""

    protocol_version = "HTTP/1.1"
    folder: Path
    sent: list[int]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        names = [p.name for p in self.folder.iterdir() if p.is_file()]
        if path.startswith("/api/models/acme/tiny/revision/"):
            return self.say(200, json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": [
                {"rfilename": name} for name in names]}).encode(), {"Content-Type": "application/json"})  # fmt: skip
        name = path.rpartition("/")[2]
        if path != f"/acme/tiny/resolve/{COMMIT}/{name}" or name not in names:
            return self.say(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = (self.folder / name).read_bytes()
        headers = {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}
        if not (wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
            return self.say(200, content, headers)
        part = content[int(wanted[1]) : int(wanted[2]) + 1]
        self.sent.append(len(part))
        return self.say(206, part, headers)

    def say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    tiny.write_llama(folder / "llama", layers=6)
    tiny.write_completions(folder / "train.jsonl", 20)
    return folder


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """A hub's address, and the sizes of the ranges that it sent."""
    sent: list[int] = []
    handler = type("Bound", (Hub,), {"folder": folder / "llama", "sent": sent})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()
        thread.join()


def launch(folder: Path, uri: str, storage: dict[str, Any]) -> tuple[list[int], str]:
    """Run the job; return the bytes that the ranks read, and the log."""
    name = uri.partition(":")[0]
    body = tiny.job(folder, model="llama", train="train.jsonl", kind="CausalLM", training={"maxSteps": 2})
    body["spec"] |= {"baseModel": {"uri": uri}, "storage": storage, "output": {"uri": f"file://{folder}/out-{name}"}}
    (folder / f"{name}.yaml").write_text(json.dumps(body))
    path = os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer"))
    command = [sys.executable, "-m", "peftjob_trainer.launch", str(folder / f"{name}.yaml")]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"base: read (\S+), (\S+) MB on ranks 0 to 1 in \S+ s", done.stdout)
    assert said, done.stdout
    return [round(float(number) * 1e6) for number in said.groups()], done.stdout


def test_from_s3(s3: S3Server, credentials: None, folder: Path) -> None:
    client = boto3.client("s3", **s3.boto3())
    for file in (folder / "llama").iterdir():
        client.upload_file(str(file), "models", f"whole/llama/{file.name}")
    read, log = launch(folder, "s3://models/whole/llama", {"s3": {"endpoint": s3.endpoint}})
    size = (folder / "llama/model.safetensors").stat().st_size
    assert max(read) <= size / 2 + SLACK
    assert "1 weights file(s)" in log


def test_from_a_hub(hub: tuple[str, list[int]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    endpoint, sent = hub
    read, _ = launch(folder, "hf://acme/tiny", {"huggingFace": {"endpoint": endpoint}})
    size = (folder / "llama/model.safetensors").stat().st_size
    assert max(read) <= size / 2 + SLACK
    assert sum(sent) <= size + SLACK
