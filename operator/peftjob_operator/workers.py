"""Asks rank 0 of a gang how training goes. What it says is not trusted: small, no redirects, numbers checked."""

import logging
from typing import Final

import aiohttp
from peftjob_api import WorkerStatus, parse_worker_json
from peftjob_api.constants import STATUS_PATH, STATUS_PORT, TRAINER_CONTAINER
from peftjob_api.worker import STATUS_MAX_BYTES

from .kube import ApiError, Kube
from .snapshot import Pod

log = logging.getLogger(__name__)

TIMEOUT: Final = aiohttp.ClientTimeout(total=3.0)


class Workers:
    """A client of worker pods."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def status(self, namespace: str, pod: Pod) -> WorkerStatus | None:
        """Return what rank 0 says over HTTP, or else in the last JSON progress line of its log; None if nothing."""
        if pod.ip:
            found = await self._ask(pod.ip)
            if found is not None:
                return found
        try:
            lines = (await self._kube.pod_log_tail(namespace, pod.name, TRAINER_CONTAINER)).splitlines()
        except (ApiError, OSError) as error:
            log.debug("%s/%s: no log: %s", namespace, pod.name, error)
            return None
        told = (parse_worker_json(WorkerStatus, line) for line in reversed(lines) if line.startswith("{"))
        # Other programs write JSON lines too; a step is what ours always have.
        return next((status for status in told if status is not None and status.step is not None), None)

    async def _ask(self, ip: str) -> WorkerStatus | None:
        if self._session is None:
            # No environment: a proxy is of no use inside the cluster. No cookies, no redirects.
            self._session = aiohttp.ClientSession(timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar())
        host = f"[{ip}]" if ":" in ip else ip
        try:
            async with self._session.get(f"http://{host}:{STATUS_PORT}{STATUS_PATH}", allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                text = await answer.content.read(STATUS_MAX_BYTES + 1)
                while len(text) <= STATUS_MAX_BYTES and (more := await answer.content.read(STATUS_MAX_BYTES)):
                    text += more
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return parse_worker_json(WorkerStatus, text)
