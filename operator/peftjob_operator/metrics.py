"""The operator's own metrics and its health, served for Prometheus, the kubelet's probes and `helm test`."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .settings import Settings

REGISTRY: Final = CollectorRegistry()
RECONCILES: Final = Counter("peftjob_operator_reconciles", "Reconciles by outcome.", ["outcome"], registry=REGISTRY)
RECONCILE_SECONDS: Final = Histogram("peftjob_operator_reconcile_seconds", "Time of a reconcile.", registry=REGISTRY)
API_REQUESTS: Final = Counter(
    "peftjob_operator_api_requests", "Requests to the API server, watches not counted.", ["method", "code"],
    registry=REGISTRY,
)  # fmt: skip
QUEUE_LENGTH: Final = Gauge("peftjob_operator_queue_length", "PeftJobs that wait for a reconcile.", registry=REGISTRY)
JOBS: Final = Gauge("peftjob_operator_peftjobs", "PeftJobs by state.", ["state"], registry=REGISTRY)

MAX_CANARY_AGE_SECONDS: Final = 60.0


class Health:
    """Whether the reconcile loop turns: the age of the last canary that went through its queue."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beaten: float | None = None

    def beat(self) -> None:
        """Note that a canary came through."""
        self._beaten = self._clock()

    @property
    def age(self) -> float | None:
        """Seconds since the last canary; None before the first."""
        return None if self._beaten is None else self._clock() - self._beaten

    @property
    def is_alive(self) -> bool:
        """Whether a canary came through lately."""
        return self.age is not None and self.age < MAX_CANARY_AGE_SECONDS


async def serve(health: Health, count_jobs: Callable[[], dict[str, int]], settings: Settings) -> None:
    """Serve `/healthz` and `/metrics`, each on its port, until cancelled."""

    async def healthz(_: web.Request) -> web.Response:
        age = health.age
        text = "no reconcile yet" if age is None else f"last reconcile {age:.1f} s ago"
        return web.Response(text=f"{text}\n", status=200 if health.is_alive else 503)

    async def metrics(_: web.Request) -> web.Response:
        JOBS.clear()
        for state, number in count_jobs().items():
            JOBS.labels(state).set(number)
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    runners = []
    try:
        for port, path, handler in (
            (settings.health_port, "/healthz", healthz),
            (settings.metrics_port, "/metrics", metrics),
        ):
            app = web.Application()
            app.router.add_get(path, handler)
            runner = web.AppRunner(app, access_log=None)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "0.0.0.0", port).start()
        await asyncio.Event().wait()
    finally:
        for runner in runners:
            await runner.cleanup()
