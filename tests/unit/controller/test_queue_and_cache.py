"""The queue of keys and the cache of what the watches told."""

import asyncio
import itertools
from collections.abc import Callable

import pytest
from peftjob_operator import workqueue
from peftjob_operator.cache import Cache
from peftjob_operator.kube import ApiError
from peftjob_operator.workqueue import Retry, WorkQueue
from peftjob_testkit.builders import UID, Object, child_job, worker

KEY = ("default", "tune")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def index() -> dict[tuple[str, str], list[Object]]:
    return {}


@pytest.fixture
def cache(clock: Clock, index: dict[tuple[str, str], list[Object]]) -> Cache:
    cache = Cache(clock)
    cache.attach("jobs", index)
    return cache


def versioned(number: int, uid: str = "j") -> Object:
    obj = child_job(uid=uid)
    obj["metadata"]["resourceVersion"] = str(number)
    return obj


def versions(cache: Cache) -> list[str]:
    return sorted(obj["metadata"]["resourceVersion"] for obj in cache.get("jobs", KEY))


def test_own_writes_are_seen_at_once_and_the_watch_catches_up(cache: Cache, index: dict[object, object]) -> None:
    cache.put("jobs", KEY, versioned(9))
    assert versions(cache) == ["9"]
    index[KEY] = [versioned(7)]
    assert versions(cache) == ["9"], "an older state from the watch"
    index[KEY] = [versioned(10)]
    assert versions(cache) == ["10"], "versions are numbers, not words"
    index[KEY] = []
    assert versions(cache) == [], "the watch told of its end"


def test_the_newest_version_of_all(cache: Cache, index: dict[object, object]) -> None:
    assert cache.newest("jobs") == 0
    index[KEY] = [versioned(7), versioned(11, "other")]
    index["default", "another"] = [versioned(10, "third")]
    assert cache.newest("jobs") == 11
    cache.put("jobs", KEY, versioned(12))
    assert cache.newest("jobs") == 12
    assert cache.newest("peftjobs") == 0


def test_an_own_write_that_no_watch_ever_shows_is_forgotten(cache: Cache, clock: Clock) -> None:
    cache.put("jobs", KEY, versioned(9))
    clock.now = 61
    assert versions(cache) == []


def test_a_list_corrects_a_watch_that_missed_a_deletion(cache: Cache, index: dict[object, object]) -> None:
    index[KEY] = [versioned(1, "gone"), versioned(2, "stays")]
    mark = cache.mark("jobs", KEY)
    cache.replace("jobs", KEY, [versioned(5, "stays"), versioned(6, "new")], UID, mark)
    assert versions(cache) == ["5", "6"]


def test_what_the_watch_tells_while_a_list_is_under_way_is_newer(cache: Cache, index: dict[object, object]) -> None:
    index[KEY] = [versioned(1, "ends")]
    mark = cache.mark("jobs", KEY)
    index[KEY] = [versioned(9, "begins")]
    cache.replace("jobs", KEY, [versioned(1, "ends")], UID, mark)
    assert versions(cache) == ["9"]


def test_a_list_says_nothing_about_another_owners_children(cache: Cache, index: dict[object, object]) -> None:
    foreign = versioned(3, "foreign")
    foreign["metadata"]["labels"]["peftjob.io/job-uid"] = "another"
    index[KEY] = [foreign]
    cache.replace("jobs", KEY, [], UID, cache.mark("jobs", KEY))
    assert versions(cache) == ["3"]


def test_a_store_that_is_set_back_is_believed(cache: Cache, index: dict[object, object], clock: Clock) -> None:
    cache.put("jobs", KEY, versioned(900))
    cache.remove("j")
    cache.remove("other")
    cache.replace("jobs", KEY, [versioned(5)], UID, cache.mark("jobs", KEY))
    assert versions(cache) == ["5"], "it is listed again"
    cache.put("jobs", KEY, versioned(900))
    index[KEY] = [versioned(6)]
    assert versions(cache) == ["900"], "an older state from the watch"
    clock.now = 151
    assert versions(cache) == ["6"], "no watch is that late"


def test_a_list_from_before_a_deletion_brings_nothing_back(cache: Cache) -> None:
    cache.put("jobs", KEY, versioned(9))
    mark = cache.mark("jobs", KEY)
    cache.remove("j")
    cache.replace("jobs", KEY, [versioned(9)], UID, mark)
    assert versions(cache) == []


def test_a_uid_that_is_gone_is_not_put_back_by_an_answer(cache: Cache, index: dict[object, object]) -> None:
    index[KEY] = [versioned(1)]
    cache.remove("j")
    cache.put("jobs", KEY, versioned(99))
    assert versions(cache) == []
    for number in range(20_000):
        cache.remove(str(number))
    assert len(cache._gone) <= 10_001


def test_keys_and_kinds_that_nobody_knows(cache: Cache) -> None:
    assert cache.get("pods", KEY) == []
    assert cache.keys("pods") == []
    cache.put("pods", KEY, worker())
    cache.forget(KEY)
    assert cache.get("pods", KEY) == []


# --- the queue ----------------------------------------------------------------------------------------------------
async def work_off(
    queue: WorkQueue[str], work: Callable[[str], object], seconds: float = 0.05, workers: int = 4
) -> None:
    async def call(key: str) -> float | None:
        result = work(key)
        return await result if asyncio.iscoroutine(result) else result  # type: ignore[return-value]

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await queue.run(call, workers)


async def test_a_key_is_there_once() -> None:
    queue, seen = WorkQueue[str](), list[str]()
    for key in "aabab":
        queue.add(key)
    assert len(queue) == 2
    await work_off(queue, seen.append)
    assert seen == ["a", "b"]


async def test_one_key_is_worked_on_by_one_task_and_once_more_for_what_came_meanwhile() -> None:
    queue, busy, runs = WorkQueue[str](), set[str](), list[str]()

    async def work(key: str) -> None:
        assert key not in busy
        busy.add(key)
        runs.append(key)
        if len(runs) == 1:
            queue.add(key)
            queue.add(key)
        await asyncio.sleep(0.005)
        busy.remove(key)

    queue.add("a")
    await work_off(queue, work)
    assert runs == ["a", "a"]


async def test_other_keys_are_worked_on_meanwhile() -> None:
    queue, runs, gate = WorkQueue[str](), list[str](), asyncio.Event()

    async def work(key: str) -> None:
        if key == "slow":
            await gate.wait()
        runs.append(key)

    queue.add("slow")
    queue.add("fast")
    await work_off(queue, work, workers=2)
    assert runs == ["fast"]


async def test_of_several_times_the_earliest_counts() -> None:
    queue, seen = WorkQueue[str](), list[str]()
    for seconds in (5.0, 0.01, 3.0):
        queue.add_later("a", seconds)
    queue.add_later("b", 5.0)
    await work_off(queue, seen.append)
    assert seen == ["a"]
    queue.add_later("b", 0)
    assert len(queue) == 1


async def test_work_says_when_the_key_shall_come_again() -> None:
    queue, seen = WorkQueue[str](), list[str]()

    def work(key: str) -> float | None:
        seen.append(key)
        return 0.01 if len(seen) < 3 else None

    queue.add("a")
    await work_off(queue, work, 0.1)
    assert seen == ["a"] * 3


async def test_failures_back_off_and_are_forgotten_after_a_success(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF", 0.01)
    queue, times = WorkQueue[str](), list[float]()

    def work(key: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) <= 3:
            raise OSError("no answer") if len(times) == 1 else ValueError("a defect")

    queue.add("a")
    await work_off(queue, work, 0.3)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(pauses) == 3
    assert pauses[0] >= 0.01
    assert pauses[1] >= 0.02
    assert pauses[2] >= 0.04
    assert queue._failures == {}
    assert [bool(record.exc_info) for record in caplog.records] == [False, True, True], "which failures were traced"


async def test_an_error_may_ask_for_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF", 0.001)
    queue, times = WorkQueue[str](), list[float]()

    def work(key: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise ApiError(429, "TooManyRequests", "", retry_after=0.1)

    queue.add("a")
    await work_off(queue, work, 0.4)
    assert len(times) == 2
    assert times[1] - times[0] >= 0.1


async def test_a_failure_that_lasts_for_days_is_still_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "LONGEST_BACKOFF", 0.001)
    queue, seen = WorkQueue[str](), list[str]()
    queue._failures["a"] = 5000

    def work(key: str) -> None:
        seen.append(key)
        raise OSError("no answer")

    queue.add("a")
    await work_off(queue, work, 0.1)
    assert len(seen) > 1


async def test_work_that_met_an_old_state_is_done_again_soon_and_counts_no_failure() -> None:
    queue, seen = WorkQueue[str](), list[str]()

    def work(key: str) -> None:
        seen.append(key)
        if len(seen) == 1:
            raise Retry

    queue.add("a")
    await work_off(queue, work, 0.4)
    assert seen == ["a", "a"]
    assert queue._failures == {}
