"""A proxy before a real API server, which can answer in its place, swallow what it hears, and kill who asks.

One for each operator under test, all in one thread. The operator talks plain HTTP to it; it talks to the API server
as the operator's user. Watches pass through as they come.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

import aiohttp
from aiohttp import web

from .api_in_memory import Fault

Mode = Literal["pass", "refuse", "hang", "unavailable", "busy"]
_T = TypeVar("_T")
_STATUS = {"unavailable": (503, {}), "busy": (429, {"Retry-After": "1"})}
_REFUSED = {Fault.CONFLICT: 409, Fault.BUSY: 429, Fault.BROKEN: 500}
_KEPT = ("Content-Type", "Accept", "User-Agent")


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine there, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def stop(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class FaultProxy:
    """One proxy."""

    def __init__(self, loop: Loop, server: str, authority: Path, certificate: Path, key: Path) -> None:
        self.mode: Mode = "pass"
        self.calls: list[str] = []
        """Method and path of each call that is no watch."""
        self.faults: dict[int, Fault] = {}
        """By the number of the call."""
        self.kill: Callable[[], None] = lambda: None
        """Kills the operator."""
        self.port = 0
        self._loop, self._server = loop, server
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._tls.load_cert_chain(certificate, key)
        self._open: dict[int, web.Request] = {}

    def start(self) -> None:
        """Listen on a port of loopback."""
        self._loop.run(self._start())

    def stop(self) -> None:
        """Listen no longer."""
        self._loop.run(self._stop())

    def set(self, mode: Mode) -> None:
        """Change what calls meet from now on; all that are open are cut, or hang where that is the mode."""
        self._loop.run(self._set(mode))

    async def _set(self, mode: Mode) -> None:
        self.mode = mode
        for request in list(self._open.values()):
            if mode not in ("pass", "hang") and request.transport is not None:
                request.transport.abort()

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), auto_decompress=False, read_bufsize=2**21
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._set("refuse")
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._open[id(request)] = request
        try:
            return await self._meet(request)
        finally:
            del self._open[id(request)]

    async def _meet(self, request: web.Request) -> web.StreamResponse:
        if self.mode == "hang":
            await asyncio.Event().wait()
        if self.mode == "refuse":
            return _cut(request)
        if self.mode in _STATUS:
            status, headers = _STATUS[self.mode]
            return web.json_response({"message": "not now", "code": status}, status=status, headers=headers)
        if request.query.get("watch") == "true":
            return await self._watch(request)
        fault = self.faults.get(len(self.calls))
        self.calls.append(f"{request.method} {request.path}")
        if fault is Fault.DIES_BEFORE:
            self.kill()
        if fault in (Fault.DIES_BEFORE, Fault.NO_ANSWER):
            return _cut(request)
        if fault in _REFUSED:
            return web.json_response({"message": "no", "reason": "no", "code": _REFUSED[fault]}, status=_REFUSED[fault])
        body = await request.read() or None
        async with self._session.request(request.method, self._url(request), data=body, headers=_kept(request)) as got:
            answer = await got.read()
        if fault is Fault.DIES_AFTER:
            self.kill()
        if fault in (Fault.DIES_AFTER, Fault.ANSWER_LOST):
            return _cut(request)
        headers = {name: got.headers[name] for name in ("Content-Type", "Date", "Retry-After") if name in got.headers}
        return web.Response(status=got.status, body=answer, headers=headers)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(self._url(request), headers=_kept(request), timeout=timeout) as got:
            response = web.StreamResponse(status=got.status, headers={"Content-Type": got.headers["Content-Type"]})
            await response.prepare(request)
            async for chunk in got.content.iter_any():
                if self.mode == "hang":
                    await asyncio.Event().wait()  # half open: this connection never says anything again
                await response.write(chunk)
            await response.write_eof()
        return response

    def _url(self, request: web.Request) -> str:
        return self._server + request.path_qs


def _kept(request: web.Request) -> dict[str, str]:
    return {name: request.headers[name] for name in _KEPT if name in request.headers}


def _cut(request: web.Request) -> web.StreamResponse:
    """Cut the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
