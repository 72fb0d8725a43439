"""How long a store that fails is asked again, and what a finished adapter does while its output is away."""

from collections.abc import Callable
from pathlib import Path

import pytest
from peftjob_api import JobIdentity, Reason, WaitingInfo
from peftjob_testkit.memory_store import MemoryStore
from peftjob_trainer.claim import Claim
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.publish import find_published, publish
from peftjob_trainer.storage import ObjectInfo, ObjectNotFound, PreconditionFailed, waiting
from peftjob_trainer.storage.patience import BRIEF, LASTING, ONCE, Busy, Policy, pause
from peftjob_trainer.storage.waiting import WaitingStore

HOUR = 3600.0


def failure(reason: Reason = Reason.STORAGE_UNAVAILABLE) -> TrainerError:
    return TrainerError(reason, "s3 is away")


@pytest.mark.parametrize(
    ("policy", "error", "failures", "waited", "jitter", "want"),
    [
        (BRIEF, failure(), 1, 0.0, 0.5, 0.2),
        (BRIEF, failure(), 3, 0.6, 0.5, 0.8),
        (BRIEF, failure(), 50, 10.0, 0.5, 3.0),
        (BRIEF, failure(), 9, 19.0, 0.5, None),
        (BRIEF, failure(), 2, 0.0, 0.0, 0.3),
        (BRIEF, failure(Reason.STORAGE_ACCESS_DENIED), 1, 0.0, 0.5, None),
        (BRIEF, failure(Reason.STORAGE_FULL), 1, 0.0, 0.5, None),
        (BRIEF, Busy("wait", 60.0), 1, 0.0, 0.5, 60.0),
        (BRIEF, Busy("wait", 60.0), 2, 61.0, 0.5, None),
        (ONCE, failure(), 1, 0.0, 0.5, None),
        (LASTING, failure(), 2000, 11 * HOUR, 0.5, 60.0),
        (LASTING, failure(), 2000, 12 * HOUR, 0.5, None),
        (LASTING, failure(Reason.STORAGE_ACCESS_DENIED), 1, 0.0, 0.5, 0.2),
        (LASTING, failure(Reason.STORAGE_FULL), 1, 0.0, 0.5, 0.2),
        (LASTING, failure(Reason.INVALID_CONFIG), 1, 0.0, 0.5, 0.2),
        (LASTING, failure(Reason.SUPERSEDED), 1, 0.0, 0.5, None),
        (LASTING, failure(Reason.BUCKET_NOT_FOUND), 1, 0.0, 0.5, None),
    ],
    ids=[
        "at once", "then more slowly", "at last at the longest pause", "not for longer than the policy says",
        "jobs do not come back all at one moment", "keys that are wrong at the start stay wrong",
        "a bucket that is full at the start", "as long as the service says", "but not for ever", "no patience",
        "a finished adapter waits for hours", "but not for ever", "for keys that are replaced", "for room",
        "for a load balancer without a server", "nobody waits for a claim that is lost",
        "nor for a bucket that is gone, and its claim with it",
    ],
)  # fmt: skip
def test_the_next_try(
    policy: Policy, error: TrainerError, failures: int, waited: float, jitter: float, want: float | None
) -> None:
    assert pause(policy, error, failures, waited, jitter) == (want if want is None else pytest.approx(want))


class Failing(MemoryStore):
    """Each read and write fails for as long as there is something to fail with."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[TrainerError] = []

    def get(self, key: str) -> tuple[bytes, str]:
        if self.errors:
            raise self.errors.pop(0)
        return super().get(key)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes by sleeping alone."""
    now = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(waiting.time, "time", lambda: 1e9 + now[0])
    monkeypatch.setattr(waiting.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_a_call_is_made_until_the_store_is_back_and_told_meanwhile(clock: list[float]) -> None:
    inner, told = Failing(), list[WaitingInfo | None]()
    inner.put("key", b"x")
    reasons = (Reason.STORAGE_UNAVAILABLE, Reason.STORAGE_ACCESS_DENIED, Reason.STORAGE_FULL)
    inner.errors = [TrainerError(reason, f"no {reason}") for reason in reasons]
    store = WaitingStore(inner, told.append, lambda: False)
    assert store.get("key")[0] == b"x"
    want = [WaitingInfo(what="Adapter", since=1e9, message=f"no {reason}") for reason in reasons]
    assert told == [*want, None]
    told.clear()
    assert store.get("key")[0] == b"x"
    assert told == [], "a store that is there is nothing to tell"


@pytest.mark.parametrize("answer", [ObjectNotFound, PreconditionFailed])
def test_an_answer_is_passed_on(answer: type[Exception], clock: list[float]) -> None:
    inner, told = Failing(), list[WaitingInfo | None]()
    inner.put("there", b"x")
    store = WaitingStore(inner, told.append, lambda: False)
    inner.errors = [failure()]
    calls: dict[type[Exception], Callable[[], object]] = {
        ObjectNotFound: lambda: store.get("missing"),
        PreconditionFailed: lambda: (store.get("there"), store.put("there", b"y", if_none_match=True)),
    }
    with pytest.raises(answer):
        calls[answer]()
    assert told[-1] is None, "the store is back"


def test_who_is_told_to_stop_waits_no_longer(clock: list[float]) -> None:
    inner = Failing()
    inner.errors = [failure()] * 1000
    store = WaitingStore(inner, lambda _: None, lambda: clock[0] > 100.0)
    with pytest.raises(TrainerError, match=r"told to stop .* waited for its output: s3 is away") as error:
        store.get("key")
    assert error.value.reason is Reason.INTERRUPTED
    assert 100.0 < clock[0] < 101.0


@pytest.mark.parametrize("reason", [Reason.STORAGE_UNAVAILABLE, Reason.STORAGE_ACCESS_DENIED])
def test_at_last_another_gang_tries(reason: Reason, clock: list[float]) -> None:
    """By a permanent reason the checkpoints would go, too."""
    inner = Failing()
    inner.errors = [failure(reason)] * 2000
    with pytest.raises(TrainerError, match=r"waited for s3://memory/out for 12 h: s3 is away") as error:
        WaitingStore(inner, lambda _: None, lambda: False).get("key")
    assert error.value.reason is Reason.STORAGE_UNAVAILABLE
    assert LASTING.seconds - 100 < clock[0] <= LASTING.seconds


def test_what_is_no_matter_of_the_store_is_not_waited_for(clock: list[float]) -> None:
    inner = Failing()
    inner.errors = [failure(Reason.BUCKET_NOT_FOUND)]
    with pytest.raises(TrainerError) as error:
        WaitingStore(inner, lambda _: None, lambda: False).get("key")
    assert error.value.reason is Reason.BUCKET_NOT_FOUND
    assert clock[0] == 0.0


class Late(MemoryStore):
    """Lists what was there some changes ago; all else knows better."""

    lag = 0

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        before = MemoryStore()
        for key, content in self.written[: max(0, len(self.written) - self.lag)]:
            if content is None:
                before.objects.pop(key, None)
            else:
                before.objects[key] = content
        return before.list(prefix)


@pytest.mark.parametrize("lag", range(12))
def test_a_store_that_lists_late_costs_nothing(lag: int, job: JobIdentity, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        (folder / name).write_text(f"content of {name}")
    store = Late()
    store.put("of/somebody.txt", b"who moved elsewhere")
    store.delete("of/somebody.txt")
    store.lag = lag
    claim = Claim.take(store, job, 1, "g1")
    info = publish(store, store.uri, claim, folder, job)
    assert find_published(store, store.uri, job) == info, "it is not trained again"
    assert publish(store, store.uri, Claim.take(store, job, 2, "g2"), folder, job) == info
    other = job.model_copy(update={"uid": "uid-2", "name": "other"})
    with pytest.raises(TrainerError, match="holds the adapter of") as error:
        Claim.take(store, other, 1, "g1")
    assert error.value.reason is Reason.OUTPUT_OCCUPIED


@pytest.mark.parametrize("lag", range(6))
def test_a_late_listing_hides_no_file_that_would_be_overwritten(lag: int, job: JobIdentity, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text("ours")
    store = Late()
    claim = Claim.take(store, job, 1, "g1")
    store.put("README.md", b"theirs")
    store.lag = lag
    with pytest.raises(TrainerError, match=r"README\.md") as error:
        publish(store, store.uri, claim, folder, job)
    assert error.value.reason is Reason.OUTPUT_OCCUPIED
    assert store.objects["README.md"] == b"theirs"
