"""The operator's liveness probe: a reconcile loop that stands still must not look alive."""

import asyncio
import contextlib

import aiohttp
from peftjob_cluster.children import free_ports
from peftjob_operator.metrics import MAX_CANARY_AGE_SECONDS, Health, serve
from peftjob_operator.settings import Settings


async def answer_of(session: aiohttp.ClientSession, url: str) -> int:
    """Ask as the kubelet does; wait until somebody listens."""
    for _ in range(500):
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with session.get(url) as answer:
                return answer.status
        await asyncio.sleep(0.01)
    raise AssertionError(f"nobody listens at {url}")


async def test_a_reconcile_loop_that_stands_still_fails_the_probe() -> None:
    """The kubelet restarts a container that answers 503; one that has not begun yet is left to its startup probe."""
    now = [100.0]
    health, (port, other) = Health(lambda: now[0]), free_ports(2)
    settings = Settings(trainer_image="x", health_port=port, metrics_port=other)
    serving = asyncio.create_task(serve(health, dict, settings))
    try:
        async with aiohttp.ClientSession() as session:
            found = [await answer_of(session, f"http://127.0.0.1:{port}/healthz")]
            health.beat()
            for seconds in (0, MAX_CANARY_AGE_SECONDS - 1, 1):
                now[0] += seconds
                found.append(await answer_of(session, f"http://127.0.0.1:{port}/healthz"))
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    assert found == [503, 200, 200, 503]
