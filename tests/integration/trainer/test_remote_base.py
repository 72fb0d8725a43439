"""Ranks whose base stays on S3 or on a hub: what goes over the wire, and what the log says of it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from peftjob_api.spec import BaseModelSpec, StorageSpec
from peftjob_cluster.s3 import S3Server
from peftjob_trainer.sharding import Base
from peftjob_trainer.sharding.segments import find_segments
from peftjob_trainer.sharding.stage import Stage, Target
from peftjob_trainer.storage import fetch_model
from transformers import AutoConfig, AutoModelForCausalLM

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
    torch.manual_seed(2)
    experts = AutoConfig.for_model("mixtral", **tiny.SIZES, num_hidden_layers=3, num_local_experts=3)
    AutoModelForCausalLM.from_config(experts).save_pretrained(folder / "mixtral", max_shard_size="150KB")
    tiny.write_tokenizer(folder / "mixtral")
    return folder


@pytest.fixture(params=["llama"])
def model(request: pytest.FixtureRequest) -> str:
    """The name of a model in the folder."""
    return str(request.param)


@pytest.fixture
def hub(folder: Path, model: str, serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> tuple[str, list[int]]:
    """A hub's address, and the sizes of the ranges that it sent."""
    sent: list[int] = []
    return serve(type("Bound", (Hub,), {"folder": folder / model, "sent": sent})), sent


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


def upload(s3: S3Server, folder: Path) -> str:
    """Put a model on S3; return its uri."""
    client = boto3.client("s3", **s3.boto3())
    for file in folder.iterdir():
        client.upload_file(str(file), "models", f"whole/{folder.name}/{file.name}")
    return f"s3://models/whole/{folder.name}"


def shares(folder: Path, uri: str, storage: StorageSpec, world: int) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Read what each rank of a world would, one after the other; return the bytes of each, and all parameters."""
    read, whole = [], {}
    for rank in range(world):
        base = Base(folder, uri, storage, torch.float32, torch.device("cpu"), seed=1)
        model = base.skeleton(AutoModelForCausalLM)
        segments = find_segments(model, base.source.weights.files)
        assert segments.conversions == []
        targets = []
        for name, parameter in model.named_parameters():
            value = whole.setdefault(name, torch.full((parameter.numel(),), float("nan")))
            size = -(-value.numel() // world)  # as ZeRO-3 deals a parameter out
            start, stop = min(rank * size, value.numel()), min((rank + 1) * size, value.numel())
            targets.append(Target(name, value[start:stop], start, stop))
        Stage(base.source, torch.device("cpu")).read(targets, segments.layouts)
        base.source.verify()
        base.source.close()
        read.append(base.source.bytes_read)
    return read, whole


@pytest.mark.parametrize("model", ["llama", "mixtral"], indirect=True)
@pytest.mark.parametrize("place", ["s3", "hub"])
def test_the_bytes_of_one_to_four_ranks(
    place: str, model: str, s3: S3Server, credentials: None, folder: Path, hub: tuple[str, list[int]],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    endpoint, sent = hub
    uri = upload(s3, folder / model) if place == "s3" else "hf://acme/tiny"
    storage = StorageSpec.model_validate({"s3": {"endpoint": s3.endpoint}, "huggingFace": {"endpoint": endpoint}})
    copy = fetch_model(BaseModelSpec(uri=uri), storage, tmp_path / "copy")
    want = AutoModelForCausalLM.from_pretrained(folder / model, dtype=torch.float32).state_dict()
    size = sum(value.nbytes for value in want.values())
    for world in range(1, 5):
        sent.clear()
        read, found = shares(copy, uri, storage, world)
        assert all(torch.equal(found[name], value.flatten()) for name, value in want.items())
        assert max(read) <= 1.02 * size / world
        assert size <= sum(read) <= 1.01 * size
        assert place == "s3" or sum(sent) == sum(read)


def test_from_s3(s3: S3Server, credentials: None, folder: Path) -> None:
    uri = upload(s3, folder / "llama")
    read, log = launch(folder, uri, {"s3": {"endpoint": s3.endpoint}})
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
