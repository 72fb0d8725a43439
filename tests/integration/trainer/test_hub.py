"""Models and data from a hub: a server on loopback that speaks the protocol that huggingface_hub speaks."""

import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from peftjob_api import Reason
from peftjob_api.spec import BaseModelSpec, StorageSpec
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.sharding.sources import Read, open_source
from peftjob_trainer.storage import fetch_files, fetch_model
from peftjob_trainer.storage.weights import RECORD_NAME
from safetensors.numpy import save

TOKEN = "hf_right"


def weights(value: float) -> bytes:
    import numpy

    return save({"w": numpy.full(4, value, dtype="float32")})


@dataclass
class Repo:
    """A repository of the hub."""

    commits: dict[str, dict[str, bytes]]
    """Commit -> its files."""
    branches: dict[str, str]
    private: bool = False
    gated: bool = False


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    """`models/OWNER/NAME` or `datasets/OWNER/NAME`."""
    endpoint: str = ""
    downloads: list[str] = field(default_factory=list)
    ranged: set[str] = field(default_factory=set)
    """Files of which a range was asked for."""
    failures: int = 0
    """Answer so many requests with 503."""
    after_info: Callable[[], None] | None = None


class Handler(http.server.BaseHTTPRequestHandler):
    """`/api/KIND/REPO/revision/REV` tells commit and files, `/REPO/resolve/REV/FILE` gives a file."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        if self.hub.failures:
            self.hub.failures -= 1
            return self.say(503, b"busy")
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/revision/([^/]+)", path):
            kind, name, revision = match.groups()
            if (found := self.find(f"{kind}/{name}", revision)) is None:
                return None
            commit, files = found
            info = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
            self.say(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
            if self.hub.after_info:
                self.hub.after_info()
            return None
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, name, revision, file = match.groups()
            if (found := self.find(f"{'datasets' if kind else 'models'}/{name}", revision)) is None:
                return None
            commit, files = found
            if file not in files:
                return self.say(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            if self.command == "GET":
                self.hub.downloads.append(file)
            etag = hashlib.sha256(files[file]).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
            if (wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))) is None:
                return self.say(200, files[file], headers)
            self.hub.ranged.add(file)
            start, last = map(int, wanted.groups())
            part = files[file][start : last + 1]
            end = start + len(part) - 1
            return self.say(206, part, {**headers, "Content-Range": f"bytes {start}-{end}/{len(files[file])}"})
        return self.say(404, b"")

    def find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return a commit and its files, or answer why not."""
        repo = self.hub.repos.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not allowed):
            # As the hub does: who is not known gets 401, whether the repository exists or not.
            known = self.headers.get("Authorization") is not None and allowed
            self.say(404 if known else 401, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        if repo.gated and not allowed:
            self.say(403, b"", {"X-Error-Code": "GatedRepo"})
            return None
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            self.say(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, repo.commits[commit]

    def say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


OLD, NEW = "a" * 40, "b" * 40
SMALL = {"config.json": b"{}", "tokenizer.json": b"{}"}
MODEL = {**SMALL, "model.safetensors": weights(1)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    held = Hub(
        {
            "models/acme/tiny": Repo(
                {
                    OLD: {**MODEL, "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"x"},
                    NEW: {**MODEL, "config.json": b'{"new": 1}', "model.safetensors": weights(2)},
                },
                {"main": NEW, "v1": OLD},
            ),
            "models/acme/secret": Repo({NEW: MODEL}, {"main": NEW}, private=True),
            "models/acme/gated": Repo({NEW: MODEL}, {"main": NEW}, gated=True),
            "models/acme/cut": Repo({NEW: {**MODEL, "model.safetensors": weights(1)[:-1]}}, {"main": NEW}),
            "datasets/acme/words": Repo(
                {
                    OLD: {"data/train.csv": b"old"},
                    NEW: {
                        "data/train.csv": b"new",
                        "data/train-2.csv": b"two",
                        "data/train-1.csv": b"one",
                        "train-3.csv": b"three",
                    },
                },
                {"main": NEW, "v1": OLD},
            ),
        }
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": held})) as server:
        server.daemon_threads = True
        held.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield held
        server.shutdown()
        thread.join()


def at(endpoint: str) -> StorageSpec:
    return StorageSpec.model_validate({"huggingFace": {"endpoint": endpoint}})


def files(folder: Path, endpoint: str) -> dict[str, bytes]:
    """Return the files at the top of a folder, and the weights that it only records, as a rank reads them."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    record = found.pop(RECORD_NAME)
    source = open_source(folder, json.loads(record)["uri"], at(endpoint))
    for name, file in source.weights.files.items():
        found[name] = bytearray(file.size)
        source.read([Read(name, 0, memoryview(found[name]), "all")])
    source.close()
    return found


def test_only_what_a_model_needs_is_fetched(hub: Hub, tmp_path: Path) -> None:
    folder = fetch_model(BaseModelSpec(uri="hf://acme/tiny", revision="v1"), at(hub.endpoint), tmp_path / "m")
    assert {path.name for path in folder.iterdir() if path.is_file()} == {*SMALL, RECORD_NAME}
    assert sorted(hub.downloads) == sorted(MODEL)
    assert hub.ranged == {"model.safetensors"}
    assert files(folder, hub.endpoint) == MODEL


@pytest.mark.parametrize(
    ("revision", "want"),
    [(None, 2.0), ("main", 2.0), ("v1", 1.0), (OLD, 1.0)],
    ids=["default", "branch", "tag", "commit"],
)
def test_the_revision_is_pinned(hub: Hub, tmp_path: Path, revision: str | None, want: float) -> None:
    folder = fetch_model(BaseModelSpec(uri="hf://acme/tiny", revision=revision), at(hub.endpoint), tmp_path / "m")
    assert files(folder, hub.endpoint)["model.safetensors"] == weights(want)


def test_a_branch_that_moves_while_it_is_fetched_gives_no_mixture(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["models/acme/tiny"]
    repo.branches["main"] = OLD
    hub.after_info = lambda: repo.branches.update(main=NEW)
    folder = fetch_model(BaseModelSpec(uri="hf://acme/tiny"), at(hub.endpoint), tmp_path / "m")
    assert files(folder, hub.endpoint) == MODEL


@pytest.mark.parametrize(("revision", "want"), [("", b"new"), ("@v1", b"old")], ids=["default", "tag"])
def test_a_data_file_at_a_revision(hub: Hub, tmp_path: Path, revision: str, want: bytes) -> None:
    uri = f"hf://datasets/acme/words{revision}/data/train.csv"
    (path,) = fetch_files([uri], at(hub.endpoint), tmp_path / "d").values()
    assert path.read_bytes() == want


def test_data_files_of_a_pattern_are_fetched_once_for_all_ranks(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = ["hf://datasets/acme/words/data/train-*.csv", "hf://datasets/acme/words/**/train-3.csv"]
    found = fetch_files(uris, at(hub.endpoint), tmp_path / "d")
    at_hub = "hf://datasets/acme/words"
    assert {uri.removeprefix(at_hub): path.read_bytes() for uri, path in found.items()} == {
        "/data/train-1.csv": b"one",
        "/data/train-2.csv": b"two",
        "/train-3.csv": b"three",
    }
    assert sorted(hub.downloads) == ["data/train-1.csv", "data/train-2.csv", "train-3.csv"]
    assert fetch_files(uris, at("http://127.0.0.1:9"), tmp_path / "d") == found
    with pytest.raises(TrainerError, match="no file of the data set"):
        fetch_files(["hf://datasets/acme/words/other-*.csv"], at(hub.endpoint), tmp_path / "d")


def test_the_endpoint_may_come_from_the_environment(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.endpoint}/")
    folder = fetch_model(BaseModelSpec(uri="hf://acme/tiny", revision="v1"), StorageSpec(), tmp_path)
    assert files(folder, hub.endpoint) == MODEL


@pytest.mark.parametrize("name", ["secret", "gated"])
def test_a_token_opens_what_is_not_for_everybody(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = fetch_model(BaseModelSpec(uri=f"hf://acme/{name}"), at(hub.endpoint), tmp_path / "m")
    assert files(folder, hub.endpoint) == MODEL


def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.failures = 2
    folder = fetch_model(BaseModelSpec(uri="hf://acme/tiny", revision="v1"), at(hub.endpoint), tmp_path)
    hub.failures = 2
    assert files(folder, hub.endpoint) == MODEL


def test_ranks_read_though_the_library_is_told_to_be_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_model(BaseModelSpec(uri="hf://acme/tiny", revision="v1"), at(hub.endpoint), tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert files(folder, hub.endpoint) == MODEL


@dataclass(frozen=True)
class Case:
    """Something that the hub does not give."""

    id: str
    uri: str
    want: Reason
    want_in_message: tuple[str, ...]
    revision: str | None = None
    token: str | None = None
    endpoint: str | None = None


CASES = [
    Case(
        "a private model without a token",
        "hf://acme/secret",
        Reason.STORAGE_ACCESS_DENIED,
        ("private", "spec.storage.huggingFace.secretName", "HF_TOKEN", "spec.baseModel.uri"),
    ),
    Case(
        "a private model with a wrong token",
        "hf://acme/secret",
        Reason.STORAGE_ACCESS_DENIED,
        ("the token may not read it", "spec.storage.huggingFace.secretName"),
        token="hf_wrong",
    ),
    Case(
        "a gated model",
        "hf://acme/gated",
        Reason.STORAGE_ACCESS_DENIED,
        ("granted by its owners", "spec.storage.huggingFace.secretName"),
    ),
    Case(
        "a model that is not there",
        "hf://acme/nothing",
        Reason.BASE_MODEL_NOT_FOUND,
        ("no such model", "spec.baseModel.uri"),
        token=TOKEN,
    ),
    Case(
        "a revision that is not there",
        "hf://acme/tiny",
        Reason.BASE_MODEL_NOT_FOUND,
        ("no such revision", "spec.baseModel.revision"),
        revision="v9",
    ),
    Case(
        "weights cut short",
        "hf://acme/cut",
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "'w'"),
    ),
    Case(
        "a file that the data set lacks",
        "hf://datasets/acme/words/data/nowhere.csv",
        Reason.DATASET_NOT_FOUND,
        ("no such file", "spec.dataset"),
    ),
    Case(
        "a data set that is not there",
        "hf://datasets/acme/nothing/train.csv",
        Reason.DATASET_NOT_FOUND,
        ("no such dataset", "spec.dataset"),
        token=TOKEN,
    ),
    Case(
        "a data set's revision that is not there",
        "hf://datasets/acme/words@v9/data/train.csv",
        Reason.DATASET_NOT_FOUND,
        ("no such revision", "@REVISION"),
    ),
    Case(
        "nothing listens at the endpoint",
        "hf://acme/tiny",
        Reason.STORAGE_UNAVAILABLE,
        ("http://127.0.0.1:9", "spec.storage.huggingFace.endpoint"),
        endpoint="http://127.0.0.1:9",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_the_hub_does_not_give_is_named(
    case: Case, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.token:
        monkeypatch.setenv("HF_TOKEN", case.token)
    storage = at(case.endpoint or hub.endpoint)

    def fetch() -> Any:
        if case.uri.startswith("hf://datasets/"):
            return fetch_files([case.uri], storage, tmp_path / "d")
        return fetch_model(BaseModelSpec(uri=case.uri, revision=case.revision), storage, tmp_path / "m")

    before = time.monotonic()
    with pytest.raises(TrainerError) as error:
        fetch()
    assert time.monotonic() - before < 30
    assert error.value.reason is case.want, error.value.message
    wanted = (*case.want_in_message, case.uri)
    assert [part for part in wanted if part not in error.value.message] == [], error.value.message
