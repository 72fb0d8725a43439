"""Asking rank 0, which nobody trusts, and its log where it cannot be asked."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest
from aiohttp import web
from peftjob_api import WorkerStatus
from peftjob_operator import workers
from peftjob_operator.kube import ApiError, Kube
from peftjob_operator.snapshot import Pod
from peftjob_operator.workers import Workers
from peftjob_testkit.builders import worker

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[None]]


class Log:
    """The API server's log of a pod."""

    def __init__(self) -> None:
        self.text: str | ApiError = ApiError(400, "BadRequest", "container is creating")
        self.reads = 0

    async def pod_log_tail(self, namespace: str, name: str, container: str) -> str:
        self.reads += 1
        assert (namespace, name, container) == ("default", "tune-1-0-x", "trainer")
        if isinstance(self.text, ApiError):
            raise self.text
        return self.text


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        monkeypatch.setattr(workers, "STATUS_PORT", runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def client(log: Log) -> AsyncIterator[Workers]:
    found = Workers(cast(Kube, log))
    yield found
    await found.close()


async def ask(client: Workers) -> WorkerStatus | None:
    return await client.status("default", Pod.of({**worker(), "status": {"podIP": "127.0.0.1"}}))


def answering(text: str | bytes, status: int = 200, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        assert request.path == "/status"
        assert "Authorization" not in request.headers
        return web.Response(body=text, status=status, headers=headers)

    return handler


async def test_an_answer(client: Workers, serve: Serve, log: Log) -> None:
    await serve(answering('{"phase": "Training", "step": 3, "unknown": [1], "loss": 0.5}'))
    found = await ask(client)
    assert found is not None
    assert (found.step, found.loss, log.reads) == (3, 0.5, 0)


async def test_numbers_that_are_not_finite_are_absent(client: Workers, serve: Serve) -> None:
    await serve(
        answering('{"step": 3, "loss": NaN, "etaSeconds": Infinity, "metrics": {"a": NaN, "b": 1e400, "c": 1}}')
    )
    found = await ask(client)
    assert found is not None
    assert (found.loss, found.eta_seconds, found.metrics) == (None, None, {"c": 1.0})


@pytest.mark.parametrize(
    ("text", "status"),
    [
        pytest.param('{"step": 1}', 500, id="an error"),
        pytest.param('{"step": 1}', 302, id="a redirect"),
        pytest.param("{", 200, id="no JSON"),
        pytest.param('{"step": -1}', 200, id="a number out of bounds"),
        pytest.param('{"step": 1, "x": "' + "x" * 20_000 + '"}', 200, id="more than 16 KiB"),
        pytest.param("[" * 10_000, 200, id="nested beyond reason"),
        pytest.param(b"\xff\xfe", 200, id="no text"),
    ],
)
async def test_an_answer_that_is_not_taken(client: Workers, serve: Serve, log: Log, text: str, status: int) -> None:
    await serve(answering(text, status, **({"Location": "http://127.0.0.1:1/x"} if status == 302 else {})))
    assert await ask(client) is None
    assert log.reads == 1, "the log was not tried"


async def test_a_redirect_is_never_followed(client: Workers, serve: Serve) -> None:
    asked = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    await serve(handler)
    assert await ask(client) is None
    assert asked == ["/status"]


async def test_an_endless_answer_ends(client: Workers, serve: Serve) -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            for _ in range(100_000):
                await answer.write(b" " * 4096)
                sent += 4096
        except (ConnectionError, OSError):
            pass
        return answer

    await serve(handler)
    assert await ask(client) is None
    assert sent < 8_000_000


async def test_the_last_progress_line_of_the_log_where_nobody_answers(client: Workers, log: Log, unused: None) -> None:
    lines = [
        "loading 3 files",
        json.dumps({"step": 4, "totalSteps": 9}),
        json.dumps({"step": 5, "totalSteps": 9}),
        '{"event": "somebody else\'s line"}',
        "{not json",
        "done",
    ]
    log.text = "\n".join(lines)
    found = await ask(client)
    assert found is not None
    assert found.step == 5


async def test_a_log_without_progress(client: Workers, log: Log, unused: None) -> None:
    log.text = "hello\n{}\n"
    assert await ask(client) is None


async def test_neither_answer_nor_log(client: Workers, unused: None) -> None:
    assert await ask(client) is None
    assert await client.status("default", Pod.of({**worker(), "status": {}})) is None


@pytest.fixture
def unused(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """Nobody listens at the worker's port."""
    monkeypatch.setattr(workers, "STATUS_PORT", unused_tcp_port)
