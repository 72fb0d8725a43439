"""What the watches told so far, and what this operator itself did or read since.

Kopf fills the indices (and lets no handler run before they are complete). Our own writes are known here at once, so
that a reconcile never acts twice because a watch is behind; what was read from the API server corrects a watch that
missed a deletion, or shows what was before the API server's store was set back to an older state.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peftjob_api.constants import LABEL_JOB_UID

Key = tuple[str, str]
"""Namespace and name of a PeftJob."""
Object = Mapping[str, Any]

_FORGET_SECONDS = 60.0
_DISTRUST_SECONDS = 150.0


class Cache:
    """PeftJobs, and their Jobs and pods, by the key of the PeftJob."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._indices: dict[str, Mapping[Key, Iterable[Object]]] = {}
        self._newer: dict[str, dict[Key, dict[str, tuple[float, Object]]]] = {}
        self._gone: dict[str, float] = {}

    def attach(self, kind: str, index: Mapping[Key, Iterable[Object]]) -> None:
        """Take over an index that Kopf fills."""
        self._indices[kind] = index

    def keys(self, kind: str) -> list[Key]:
        """Return the keys under which something of a kind is known."""
        return list(self._indices.get(kind, {}))

    def get(self, kind: str, key: Key) -> list[Object]:
        """Return the objects of a kind, each as it was last seen, from wherever."""
        index = self._indices.get(kind, {})
        found = {obj["metadata"]["uid"]: obj for obj in index.get(key, ())}
        newer = self._newer.get(kind, {}).get(key, {})
        for uid, (written, obj) in list(newer.items()):
            seen = found.get(uid)
            if seen is not None and version(seen) >= version(obj):
                del newer[uid]  # the watch has caught up
            elif self._clock() - written > (_FORGET_SECONDS if seen is None else _DISTRUST_SECONDS):
                del newer[uid]  # made and gone before the watch could tell; or versions count from an older state again
            else:
                found[uid] = obj
        return [obj for uid, obj in found.items() if uid not in self._gone]

    def newest(self, kind: str) -> int:
        """Return the highest version of any object of a kind; those of others may be kept in a store of their own."""
        return max((version(obj) for key in self.keys(kind) for obj in self.get(kind, key)), default=0)

    def mark(self, kind: str, key: Key) -> "Mark":
        """Return what is known now, before the API server is asked to list it."""
        index = self._indices.get(kind, {})
        seen = frozenset(obj["metadata"]["uid"] for obj in index.get(key, ()))
        return Mark(frozenset(obj["metadata"]["uid"] for obj in self.get(kind, key)), seen, frozenset(self._gone))

    def put(self, kind: str, key: Key, obj: Object) -> None:
        """Remember an object as the API server returned it."""
        self._newer.setdefault(kind, {}).setdefault(key, {})[obj["metadata"]["uid"]] = (self._clock(), obj)

    def replace(self, kind: str, key: Key, objects: Iterable[Object], owner: str, mark: "Mark") -> None:
        """Remember all children of a PeftJob with uid `owner`, as the API server listed them after `mark`.

        Those that were known before and are not listed are gone. The watch may have told of others meanwhile, and that
        some of those listed are gone.
        """
        listed = {obj["metadata"]["uid"]: obj for obj in objects}
        for obj in self.get(kind, key):
            uid = obj["metadata"]["uid"]
            if (
                uid in mark.known
                and uid not in listed
                and obj["metadata"].get("labels", {}).get(LABEL_JOB_UID) == owner
            ):
                self.remove(uid)
        seen = self.mark(kind, key).seen
        for uid, obj in listed.items():
            if uid in mark.gone:
                self._gone.pop(uid, None)  # the store was set back to a time when it was there
            if uid in seen or uid not in mark.seen:
                self.put(kind, key, obj)

    def remove(self, uid: str) -> None:
        """Remember that an object is gone; its uid comes again only if the API server lists it after this."""
        now = self._clock()
        if len(self._gone) > 10_000:
            self._gone = dict(sorted(self._gone.items(), key=lambda item: item[1])[-5_000:])
        self._gone[uid] = now

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a PeftJob that is gone."""
        for kind in self._newer.values():
            kind.pop(key, None)


@dataclass(frozen=True)
class Mark:
    """What was known at one moment: the uids of objects."""

    known: frozenset[str]
    seen: frozenset[str]
    """By the watch."""
    gone: frozenset[str]


def version(obj: Object) -> int:
    """Return an object's resourceVersion as a number; API servers on etcd count up (KEP-5504)."""
    text = str(obj["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0
