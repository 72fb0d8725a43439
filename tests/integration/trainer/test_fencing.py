"""The claim and the publishing on a real S3 server: races, superseded gangs, and a store that lies about conditions."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from peftjob_api import AdapterInfo, JobIdentity, Reason
from peftjob_api.constants import CLAIM_NAME
from peftjob_api.spec import StorageSpec
from peftjob_cluster.s3 import S3Server
from peftjob_testkit.s3_proxy import S3Proxy
from peftjob_trainer.claim import Claim
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.publish import find_published, publish
from peftjob_trainer.storage import ObjectInfo, Store, open_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        (made / name).write_text(f"content of {name}")
    return made


def test_two_gangs_that_claim_at_once_end_as_one(output: Store, job: JobIdentity) -> None:
    """Both may take it, one after the other; at the end one holds it and the other knows."""
    for attempt in range(1, 8):
        claims: list[Claim] = []
        refused: list[Reason] = []
        start = threading.Barrier(2)

        def take(
            gang: str,
            attempt: int = attempt,
            claims: list[Claim] = claims,
            refused: list[Reason] = refused,
            start: threading.Barrier = start,
        ) -> None:
            start.wait()
            try:
                claims.append(Claim.take(output, job, attempt, gang))
            except TrainerError as error:
                refused.append(error.reason)

        threads = [threading.Thread(target=take, args=(f"{attempt}-{side}",)) for side in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        holders = []
        for claim in claims:
            try:
                claim.check()
                holders.append(claim)
            except TrainerError as error:
                refused.append(error.reason)
        assert len(holders) == 1
        assert refused == [Reason.SUPERSEDED]
        assert len({claim.number for claim in claims}) == len(claims)


def test_two_jobs_with_one_output_end_as_one(output: Store, job: JobIdentity) -> None:
    Claim.take(output, job, 1, "g")
    before = output.list()
    with pytest.raises(TrainerError, match="team/sentiment") as error:
        Claim.take(output, JobIdentity(namespace="team", name="other", uid="uid-9"), 1, "g")
    assert error.value.reason is Reason.OUTPUT_OCCUPIED
    assert output.list() == before


@pytest.mark.parametrize("write", range(1, 6))
def test_a_superseded_gang_is_refused_at_every_write(
    output: Store, job: JobIdentity, folder: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """The old gang stalls before its Nth write, a new one claims and publishes, the old one comes back."""
    old = Claim.take(output, job, 1, "old")
    original = type(output).put
    before = 0
    published: list[AdapterInfo] = []
    left_by_new: list[ObjectInfo] = []

    def put(self: Store, *args: Any, **kwargs: Any) -> str:
        nonlocal before
        before += 1
        if before == write:
            published.append(publish(output, output.uri, Claim.take(output, job, 2, "new"), folder, job))
            left_by_new.extend(output.list())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(output), "put", put)
    with pytest.raises(TrainerError) as error:
        publish(output, output.uri, old, folder, job)
    assert error.value.reason is Reason.SUPERSEDED
    assert output.list() == left_by_new
    assert [find_published(output, output.uri, job)] == published


def test_publishing_twice_is_publishing_once(output: Store, job: JobIdentity, folder: Path) -> None:
    first = publish(output, output.uri, Claim.take(output, job, 1, "g1"), folder, job)
    before = output.list()
    assert find_published(output, output.uri, job) == first
    (folder / "README.md").write_text("of a later gang")
    assert publish(output, output.uri, Claim.take(output, job, 2, "g2"), folder, job) == first
    assert [o for o in output.list() if o.key != CLAIM_NAME] == [o for o in before if o.key != CLAIM_NAME]


def test_foreign_files_at_the_output_stay_as_they_are(
    output: Store, job: JobIdentity, put: Callable[[str, bytes], None]
) -> None:
    put(f"{output.uri}/thesis.txt", b"ten years of work")
    before = output.list()
    with pytest.raises(TrainerError) as error:
        Claim.take(output, job, 1, "g1")
    assert error.value.reason is Reason.OUTPUT_OCCUPIED
    assert all(part in error.value.message for part in (output.uri, "thesis.txt", "spec.output.uri"))
    assert output.list() == before


Proxy = Callable[..., S3Proxy]


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """Return a starter of proxies in front of the S3 server."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(S3Proxy(s3, **settings))


@pytest.mark.parametrize("dropped", [("if-none-match",), ("if-match",), ("if-match", "if-none-match")])
def test_a_store_that_ignores_conditions_is_found_out_at_once(
    proxy: Proxy, output: Store, job: JobIdentity, at_endpoint: Callable[[str], StorageSpec], dropped: tuple[str, ...]
) -> None:
    lax = open_store(output.uri, at_endpoint(proxy(drop=dropped).endpoint))
    with pytest.raises(TrainerError, match="conditional writes") as error:
        Claim.take(lax, job, 1, "g1")
    assert error.value.reason is Reason.CONDITIONAL_WRITES_UNSUPPORTED
    assert "spec.output.uri" in error.value.message
    assert output.list() == []


def test_on_a_store_that_ignores_conditions_a_claim_that_is_there_stays(
    proxy: Proxy, output: Store, job: JobIdentity, at_endpoint: Callable[[str], StorageSpec]
) -> None:
    Claim.take(output, job, 1, "g1")
    before = output.list()
    lax = open_store(output.uri, at_endpoint(proxy(drop=("if-match", "if-none-match")).endpoint))
    with pytest.raises(TrainerError) as error:
        Claim.take(lax, job, 2, "g2")
    assert error.value.reason is Reason.CONDITIONAL_WRITES_UNSUPPORTED
    assert output.list() == before


def test_an_answer_that_gets_lost_is_not_taken_for_a_lost_claim(
    proxy: Proxy, output: Store, job: JobIdentity, folder: Path, at_endpoint: Callable[[str], StorageSpec]
) -> None:
    """The write arrives, its answer does not, the client writes again and is refused: by its own first write."""
    server, left = proxy(), [1]

    def fails(number: int, method: str, path: str) -> Any:
        if method == "PUT" and left[0]:
            left[0] -= 1
            return "lost"
        return None

    server.fails = fails
    store = open_store(output.uri, at_endpoint(server.endpoint))
    claim = Claim.take(store, job, 1, "g1")
    assert claim.number == 1
    for lost in range(1, 3):
        left[0] = lost
        claim.announce([f"file-{lost}"])
    left[0] = 3
    info = publish(store, store.uri, claim, folder, job)
    assert find_published(output, output.uri, job) == info


def test_the_claim_outlives_the_server(s3: S3Server, output: Store, job: JobIdentity, folder: Path) -> None:
    """An S3 server that is away for a moment costs a gang neither its claim nor its adapter."""
    claim = Claim.take(output, job, 1, "g1")
    s3.interrupt()
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(publish, output, output.uri, claim, folder, job)
        time.sleep(1)
        s3.resume()
        info = publishing.result(30)
    assert json.loads(output.get("manifest.json")[0])["files"].keys() == {p.name for p in folder.iterdir()}
    assert find_published(output, output.uri, job) == info
