"""The API server as the operator's own client sees it, in memory; each of its answers can be a fault.

The client is the real one down to a single request, so that every call counts that a cluster would be asked: the
GET after a 409, and the apply after that. Used by `simulation`.
"""

import asyncio
import copy
import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from peftjob_operator.kube import ApiError, Kube
from peftjob_operator.snapshot import format_time

from .builders import Object

if TYPE_CHECKING:
    from .simulation import World


class Crash(BaseException):
    """The operator died."""


class Fault(enum.Enum):
    """What one call meets."""

    DIES_BEFORE = "the operator dies before the call"
    DIES_AFTER = "the operator dies after the call"
    NO_ANSWER = "the call does not arrive"
    ANSWER_LOST = "the call arrives, its answer does not"
    CONFLICT = "409"
    BUSY = "429"
    BROKEN = "500"


_REFUSALS: Final = {
    Fault.CONFLICT: (409, "Conflict", "the object has been modified"),
    Fault.BUSY: (429, "TooManyRequests", "the server has received too many requests"),
    Fault.BROKEN: (500, "InternalError", "etcdserver: request timed out"),
}


class FakeKube(Kube):
    """The operator's client, in front of a world instead of an API server."""

    def __init__(self, world: "World", on_create: Callable[[Object], None] = lambda job: None) -> None:
        self.world = world
        self.calls: list[str] = []
        """What was asked: verb and kind."""
        self.faults: dict[int, Fault] = {}
        """By the number of the call, from 0."""
        self.turns: Callable[[], int] = lambda: 0
        """How many turns others have before a call arrives."""
        self.down = False
        self.dead = False
        self._on_create = on_create

    async def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Answer one request, unless a fault is due."""
        for _ in range(self.turns()):
            await asyncio.sleep(0)
        if self.down:
            raise OSError("no answer")
        _, _, rest = path.partition("/namespaces/")
        _namespace, kind, name, part = [*rest.split("/"), "", ""][:4]
        if self.dead:
            self._die(kind)
        fault = self.faults.get(len(self.calls))
        self.calls.append(f"{method} {kind}")
        if fault is Fault.DIES_BEFORE:
            self._die(kind)
        if fault is Fault.NO_ANSWER:
            raise OSError("no answer")
        if fault in _REFUSALS:
            raise ApiError(*_REFUSALS[fault])
        answer = copy.deepcopy(self._serve(method, kind, name, part, body or {}, query or {}))
        if fault is Fault.DIES_AFTER:
            self._die(kind)
        if fault is Fault.ANSWER_LOST:
            raise OSError("no answer")
        return answer

    def _die(self, kind: str) -> None:
        self.dead = True
        if kind == "events":
            raise OSError("dead")  # in the background, where nobody waits for more
        raise Crash

    def _serve(
        self, method: str, kind: str, name: str, part: str, body: Object, query: Mapping[str, str]
    ) -> Object | str:
        if method == "POST":
            return self._create(kind, body)
        if method == "GET" and not name:
            return {"items": self._list(kind, query)}
        found = next((o for o in self.world.objects[kind].values() if o["metadata"]["name"] == name), None)
        if found is None:
            raise ApiError(404, "NotFound", f"{kind} {name!r} not found")
        if method == "GET":
            return found if not part else ""
        if method == "DELETE":
            return self._delete(kind, found, body)
        return self._patch(kind, found, part, body)

    def _list(self, kind: str, query: Mapping[str, str]) -> list[Object]:
        if kind == "events":
            return []  # nothing here fails to start
        wanted = [pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair]
        return [
            obj
            for obj in self.world.objects[kind].values()
            if all(obj["metadata"].get("labels", {}).get(label) == value for label, value in wanted)
        ]

    def _create(self, kind: str, obj: Object) -> Object:
        if kind == "events":
            self.world.events.append((obj["type"], obj["reason"], obj["message"]))
            return obj
        name = obj["metadata"]["name"]
        if any(o["metadata"]["name"] == name for o in self.world.objects[kind].values()):
            raise ApiError(409, "AlreadyExists", name)
        obj = copy.deepcopy(obj)
        if kind == "jobs":
            self._on_create(obj)
            obj["status"] = {}
            obj["spec"]["suspend"] = self.world.has_queue
        obj["metadata"]["uid"] = self.world.uid()
        return self.world.write(kind, obj)

    def _patch(self, kind: str, found: Object, part: str, body: Object) -> Object:
        wanted = body["metadata"].get("resourceVersion", found["metadata"]["resourceVersion"])
        if wanted != found["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        changed = copy.deepcopy(found)
        if part == "status":
            changed["status"] = merged(found.get("status", {}), body["status"])
        else:
            assert kind in ("services", "configmaps"), "the Job is never patched"
            changed = merged(changed, body)
        return self.world.write(kind, changed)

    def _delete(self, kind: str, found: Object, options: Object) -> Object:
        metadata = found["metadata"]
        if options["preconditions"]["uid"] != metadata["uid"]:
            raise ApiError(409, "Conflict", "the UID in the precondition does not match")
        if kind == "pods":
            self.world.delete_pod(found, force=options.get("gracePeriodSeconds") == 0)
        elif kind == "peftjobs":
            self.world.remove(kind, metadata["uid"])
        elif "deletionTimestamp" not in metadata:
            assert options["propagationPolicy"] == "Foreground"
            found = copy.deepcopy(found)
            found["metadata"]["deletionTimestamp"] = format_time(self.world.now)
            self.world.write("jobs", found)
        return found


def merged(target: Object, patch: Mapping[str, Any]) -> Object:
    """Return the result of a JSON merge patch."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            inner = result.get(key)
            result[key] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            result[key] = value
    return result
