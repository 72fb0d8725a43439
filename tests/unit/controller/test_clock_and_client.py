"""The API server's time, and the client that hears it: what an answer says beside its body."""

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import cast

import kopf
import pytest
from aiohttp import web
from kubernetes.aio import client
from peftjob_operator.clock import ClusterClock
from peftjob_operator.handlers import configure
from peftjob_operator.kube import PODS, ApiError, Kube
from peftjob_operator.versions import SetBack, watch_versions

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DATE = "Sun, 01 Mar 2026 12:00:00 GMT"


class Ticks:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("hours", [-1, 0, 1], ids=["an hour late", "right", "an hour early"])
def test_the_api_servers_time_counts_whatever_this_machines_clock_says(hours: int) -> None:
    ticks = Ticks()
    clock = ClusterClock(ticks, own=lambda: (NOON + timedelta(hours=hours)).timestamp())
    assert clock() == NOON + timedelta(hours=hours)
    clock.hear(DATE)
    assert clock() == NOON
    ticks.now += 30
    assert clock() == NOON + timedelta(seconds=30)


def test_a_date_within_its_own_exactness_moves_nothing() -> None:
    ticks = Ticks()
    clock = ClusterClock(ticks, own=lambda: NOON.timestamp() + 0.7)
    for _ in range(3):
        clock.hear(DATE)
        assert clock() == NOON + timedelta(seconds=0.7)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sun, 99 Mar 2026 12:00:00 GMT"])
def test_an_answer_without_a_date_moves_nothing(date: str | None) -> None:
    clock = ClusterClock(Ticks(), own=NOON.timestamp)
    clock.hear(date)
    assert clock() == NOON


@pytest.fixture
async def server() -> AsyncIterator[int]:
    """Serve an API that is too busy, and return its port."""

    async def busy(_: web.Request) -> web.Response:
        return web.json_response(
            {"reason": "TooManyRequests", "message": "slow down"},
            status=429,
            headers={"Retry-After": "7", "Date": DATE},
        )

    app = web.Application()
    app.router.add_get("/{path:.*}", busy)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_an_answer_tells_the_time_and_how_long_to_wait(server: int) -> None:
    heard: list[str | None] = []
    kube = Kube(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{server}")), heard.append)
    try:
        with pytest.raises(ApiError, match="slow down") as error:
            await kube.get(PODS, "default", "tune")
    finally:
        await kube.close()
    assert (error.value.status, error.value.retry_after) == (429, 7.0)
    assert heard == [DATE]


class Versions:
    """An API server that tells one version after the other, or an error."""

    def __init__(self, *versions: str | Exception) -> None:
        self.versions = list(versions)

    async def request(self, method: str, path: str, *, query: dict[str, str]) -> dict[str, object]:
        assert (method, path, query) == ("GET", "/apis/peftjob.io/v1alpha1/peftjobs", {"limit": "1"})
        told = self.versions.pop(0)
        if isinstance(told, Exception):
            raise told
        return {"metadata": {"resourceVersion": told}}


async def test_a_store_that_is_set_back_ends_the_operator() -> None:
    away, busy = OSError("no answer"), ApiError(429, "TooManyRequests", "storage is (re)initializing")
    server = Versions("99", "100", "100", away, busy, "101", away, "98", "102")
    with pytest.raises(SetBack, match="from version 101 to 98"):
        await watch_versions(cast(Kube, server), (), lambda: 0, seconds=0)
    assert server.versions == ["102"]


async def test_a_watch_may_have_told_of_a_newer_version_than_the_last_answer() -> None:
    server, seen = Versions("99", "104"), iter([99, 105])
    with pytest.raises(SetBack, match="from version 105 to 104"):
        await watch_versions(cast(Kube, server), (), lambda: next(seen), seconds=0)


def test_watches_never_give_up() -> None:
    settings = kopf.OperatorSettings()
    configure(settings)
    pauses = settings.networking.error_backoffs
    assert not isinstance(pauses, int | float)
    for _ in range(2):  # each request begins anew
        some = list(itertools.islice(pauses, 1000))
        assert (some[0], max(some), some[-1]) == (0.5, 5.0, 5.0)
