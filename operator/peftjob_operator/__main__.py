"""Starts the operator: `python -m peftjob_operator`."""

import asyncio
import logging
import sys
from functools import partial
from typing import Any

import kopf
from peftjob_api.constants import FIELD_MANAGER, GROUP, PLURAL, VERSION

from . import metrics
from .cache import Cache, Key
from .clock import ClusterClock
from .handlers import registry
from .kube import ApiError, Kube
from .metrics import Health
from .observe import Observer
from .reconcile import Reconciler
from .settings import Settings
from .versions import SetBack, watch_versions
from .workers import Workers
from .workqueue import Retry, WorkQueue

log = logging.getLogger("peftjob_operator")

CONCURRENCY = 16
CANARY: Key = ("", "")
CANARY_SECONDS = 5.0


async def run(settings: Settings) -> None:
    """Run until SIGTERM, or until a part of the operator ends by itself, which is an error."""
    clock = ClusterClock()
    kube = await Kube.connect(clock.hear)
    workers = Workers(kube)
    cache, queue, health = Cache(), WorkQueue[Key](), Health()
    observer = Observer(cache, kube, workers, queue.add, clock)
    reconciler = Reconciler(settings, cache, kube, observer)

    async def work(key: Key) -> float | None:
        """Reconcile one key; the canary shows that the loop turns, and asks the API server for nothing."""
        metrics.QUEUE_LENGTH.set(len(queue))
        if key == CANARY:
            health.beat()
            return CANARY_SECONDS
        outcome = "error"
        try:
            with metrics.RECONCILE_SECONDS.time():
                later = await reconciler.reconcile(key)
            outcome = "ok"
        except Retry:
            outcome = "retry"
            raise
        finally:
            metrics.RECONCILES.labels(outcome).inc()
        return later

    def count_jobs() -> dict[str, int]:
        counts: dict[str, int] = {}
        for key in cache.keys("peftjobs"):
            for obj in cache.get("peftjobs", key):
                state = str((obj.get("status") or {}).get("state") or "Pending")
                counts[state] = counts.get(state, 0) + 1
        return counts

    try:
        await wait_for_crd(kube)
        queue.add(CANARY)
        scope = {"namespaces": settings.namespaces} if settings.namespaces else {"clusterwide": True}
        # Named here: Kopf would look for its user's name, and in a container that user has none.
        kopf_settings: dict[str, Any] = {"standalone": True, "identity": FIELD_MANAGER, **scope}
        watching = asyncio.create_task(
            kopf.operator(registry=registry(cache, queue, observer), **kopf_settings), name="watches"
        )
        parts = [
            watching,
            asyncio.create_task(queue.run(work, CONCURRENCY), name="queue"),
            asyncio.create_task(metrics.serve(health, count_jobs, settings), name="health"),
            asyncio.create_task(
                watch_versions(kube, settings.namespaces, partial(cache.newest, "peftjobs")), name="versions"
            ),
        ]
        done, rest = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for task in done:
            task.result()  # Kopf returns on SIGTERM; whatever else ends has failed
    finally:
        await workers.close()
        await kube.close()


async def wait_for_crd(kube: Kube) -> None:
    """Wait until the API server serves PeftJobs: Kopf looks for them only once."""
    while True:
        try:
            served = await kube.request("GET", f"/apis/{GROUP}/{VERSION}")
            if any(resource["name"] == PLURAL for resource in served["resources"]):
                return
        except (ApiError, OSError) as error:
            log.warning("PeftJobs are not served (%s): install the CRD crds/peftjob.io_peftjobs.yaml", error)
        await asyncio.sleep(2)


def main() -> None:
    """Read the settings and run."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        sys.exit(str(error))
    log.info("workers run %s; namespaces: %s", settings.trainer_image, ", ".join(settings.namespaces) or "all")
    try:
        asyncio.run(run(settings))
    except SetBack as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
