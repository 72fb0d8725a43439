"""Ranges of weights read from a hub that sends on to a content store, both of which may misbehave."""

import http.server
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from peftjob_api import Reason
from peftjob_api.spec import BaseModelSpec, StorageSpec
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.sharding.sources import Source, open_source
from peftjob_trainer.storage import fetch_model, patience

sys.path.append(str(Path(__file__).resolve().parent))

from halves import FILE, HALF_BYTES, OTHERS, check_half, read_half

COMMIT, TOKEN = "c" * 40, "hf_secret"
URI = "hf://acme/tiny"
Serve = Callable[[type[http.server.BaseHTTPRequestHandler]], str]


@dataclass
class World:
    """What hub and store hold and do, and what they were asked."""

    content: bytes = FILE
    etag: str = "first"
    store: str = ""
    """Where the hub sends on to; empty: it answers itself."""
    hub_status: int | None = None
    store_status: int | None = None
    retry_after: int | None = None
    times: int = 0
    """How many ranges are answered wrongly, by either."""
    cut_after: int | None = None
    ignores_ranges: bool = False
    shifts: int = 0
    """The range that comes begins so many bytes later than the one that was asked for."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Who was asked for a range (hub or store), with which token."""
    before: Callable[[], None] | None = None


class Answers(http.server.BaseHTTPRequestHandler):
    """What hub and store have in common."""

    protocol_version = "HTTP/1.1"
    world: World

    def spoils(self) -> bool:
        self.world.times -= 1
        return self.world.times >= 0

    def say(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def say_range(self, wanted: str, is_spoilt: bool, headers: dict[str, str]) -> None:
        content, world = self.world.content, self.world
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        assert match, wanted
        first, last = int(match[1]), int(match[2])
        if is_spoilt:
            first, last = first + world.shifts, last + world.shifts
        if first >= len(content):
            return self.say(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        part = content[first : last + 1]
        if is_spoilt and world.ignores_ranges:
            return self.say(200, content, headers)
        about = {**headers, "Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"}
        return self.say(206, part, about, world.cut_after if is_spoilt else None)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Hub(Answers):
    """One model, at one commit."""

    def do_GET(self) -> None:
        world, path = self.world, self.path.partition("?")[0]
        small = {"config.json": b"{}", "tokenizer.json": b"{}"}
        if path == "/api/models/acme/tiny/revision/main":
            names = [{"rfilename": name} for name in [*small, "model.safetensors"]]
            body = json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": names}).encode()
            return self.say(200, body, {"Content-Type": "application/json"})
        name = path.rpartition("/")[2]
        if name in small:
            return self.say(200, small[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
        headers = {
            "X-Linked-Etag": f'"{world.etag}"',
            "X-Linked-Size": str(len(world.content)),
            "ETag": '"of a pointer"',
            "X-Repo-Commit": COMMIT,
        }
        if (wanted := self.headers.get("Range")) is None:
            return self.say(200, world.content, headers)
        world.asked.append(("hub", self.headers.get("Authorization")))
        if world.before:
            world.before()
        is_spoilt = (not world.store or world.hub_status is not None) and self.spoils()
        if is_spoilt and world.hub_status is not None:
            said = {"Retry-After": str(world.retry_after)} if world.retry_after else {}
            said |= {"X-Error-Code": "EntryNotFound"} if world.hub_status == 404 else {}
            return self.say(world.hub_status, b"", said)
        if world.store:
            return self.say(302, b"", {**headers, "Location": f"{world.store}/{world.etag}?signature=x"})
        return self.say_range(wanted, is_spoilt, headers)

    do_HEAD = do_GET


class Store(Answers):
    """What content stores do: they know signatures, and no tokens."""

    def do_GET(self) -> None:
        self.world.asked.append(("store", self.headers.get("Authorization")))
        if self.world.before:
            self.world.before()
        is_spoilt = self.world.hub_status is None and self.spoils()
        if is_spoilt and self.world.store_status is not None:
            return self.say(self.world.store_status, b"")
        return self.say_range(self.headers["Range"], is_spoilt, {"ETag": '"of the store"'})


@pytest.fixture(params=["by itself", "by a content store"])
def world(request: pytest.FixtureRequest, serve: Serve) -> World:
    world = World()
    if request.param == "by a content store":
        world.store = serve(type("BoundStore", (Store,), {"world": world}))
    return world


@pytest.fixture
def opened(world: World, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """The model as a rank opens it, after the launcher."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    endpoint = serve(type("BoundHub", (Hub,), {"world": world}))
    storage = StorageSpec.model_validate({"huggingFace": {"endpoint": endpoint}})
    source = open_source(fetch_model(BaseModelSpec(uri=URI), storage, tmp_path / "model"), URI, storage)
    world.asked.clear()
    source.part_bytes, source.threads = 256 * 1024, 1
    yield source
    source.close()


def test_only_the_ranges_of_a_rank_are_read_and_the_token_goes_to_the_hub_alone(opened: Source, world: World) -> None:
    check_half(read_half(opened))
    assert opened.bytes_read == HALF_BYTES
    to_hub = ("hub", f"Bearer {TOKEN}")
    # Of four ranges, only the first asks the hub where the file is.
    assert world.asked == ([to_hub, *[("store", None)] * 4] if world.store else [to_hub] * 4)


BORNE: dict[str, dict[str, Any]] = {
    "connections cut in the middle": {"cut_after": 100_000, "times": 3},
    "connections cut at once": {"cut_after": 0, "times": 2},
    "the hub fails": {"hub_status": 500, "times": 3},
    "the hub is busy": {"hub_status": 503, "times": 3},
}


@pytest.mark.parametrize("spoil", BORNE.values(), ids=BORNE.keys())
def test_what_passes_is_borne(opened: Source, world: World, spoil: dict[str, Any]) -> None:
    vars(world).update(spoil)
    check_half(read_half(opened))
    assert world.times < 0


@pytest.mark.parametrize("world", ["by a content store"], indirect=True)
def test_an_address_of_the_store_that_holds_no_more_is_asked_for_again(opened: Source, world: World) -> None:
    def expire() -> None:
        if len(world.asked) == 4:  # hub, store, store, and now the store once more
            world.store_status, world.times = 403, 1

    world.before = expire
    check_half(read_half(opened))
    assert [who for who, _ in world.asked] == ["hub", "store", "store", "store", "hub", "store", "store"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_is_left_alone_for_as_long_as_it_says(opened: Source, world: World, status: int) -> None:
    world.hub_status, world.retry_after, world.times = status, 2, 1
    before = time.monotonic()
    check_half(read_half(opened))
    assert time.monotonic() - before >= 2


NAMED: dict[str, tuple[dict[str, Any], Reason, tuple[str, ...]]] = {
    "too many requests for too long": (
        {"hub_status": 429, "retry_after": 3600}, Reason.STORAGE_UNAVAILABLE, ("429",),
    ),
    "a token that holds no more": ({"hub_status": 401}, Reason.STORAGE_ACCESS_DENIED, ("secretName",)),
    "access that was taken away": ({"hub_status": 403}, Reason.STORAGE_ACCESS_DENIED, ("403", "secretName")),
    "a file that is gone": ({"hub_status": 404}, Reason.BASE_MODEL_NOT_FOUND, ("no such file",)),
    "ranges are ignored": ({"ignores_ranges": True}, Reason.INVALID_CONFIG, ("serves no ranges",)),
    "another range": ({"shifts": 4}, Reason.INVALID_CONFIG, ("serves no ranges",)),
    "busy without end": ({"hub_status": 503}, Reason.STORAGE_UNAVAILABLE, ("503",)),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "want", "want_in_message"), NAMED.values(), ids=NAMED.keys())
def test_what_does_not_pass_is_named(
    opened: Source, world: World, monkeypatch: pytest.MonkeyPatch, spoil: dict[str, Any], want: Reason,
    want_in_message: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr(patience, "BRIEF", replace(patience.BRIEF, seconds=1.0))
    vars(world).update(spoil, times=10**6)
    with pytest.raises(TrainerError) as error:
        read_half(opened)
    assert error.value.reason is want, error.value.message
    wanted = (*want_in_message, "model.safetensors", "tensor 'embed'", URI)
    assert [part for part in wanted if part not in error.value.message] == [], error.value.message


CHANGES: dict[str, dict[str, Any]] = {
    "another content": {"content": OTHERS, "etag": "second"},
    "a shorter one": {"content": FILE[: len(FILE) // 2], "etag": "first"},
    "one without the second half": {"content": FILE[:1000], "etag": "first"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_file_replaced_while_it_is_read_is_an_error(opened: Source, world: World, change: dict[str, Any]) -> None:
    calls = []

    def replace() -> None:
        calls.append(1)
        if len(calls) == 3:
            vars(world).update(change)

    world.before = replace
    if world.store and change["content"] is OTHERS:
        # A store's address is that of a content; the hub's next one would be of another.
        replace_address(opened)
    with pytest.raises(TrainerError) as error:
        read_half(opened)
    assert error.value.reason is Reason.BASE_MODEL_CORRUPT, error.value.message
    wanted = (f"{URI}/model.safetensors", "tensor '", "replaced")
    assert [part for part in wanted if part not in error.value.message] == [], error.value.message


def replace_address(source: Source) -> None:
    """Have every range ask the hub anew, as when addresses hold for a moment only."""
    source._repo._direct.clear()  # type: ignore[attr-defined]
    fill = source._fill

    def filled(piece: Any) -> None:
        source._repo._direct.clear()  # type: ignore[attr-defined]
        fill(piece)

    source._fill = filled  # type: ignore[method-assign]
