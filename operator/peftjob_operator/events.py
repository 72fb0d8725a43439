"""The turning points of a PeftJob as Kubernetes Events, told from the change of its status. Used by `reconcile`."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from peftjob_api import PeftJobStatus, Reason
from peftjob_api.constants import API_VERSION, FIELD_MANAGER, KIND
from peftjob_api.peftjob import Metadata
from peftjob_api.status import ConditionType

from .snapshot import format_time

MAX_MESSAGE = 1024

_TOLD_ONCE: tuple[ConditionType, ...] = ("Suspended", "Succeeded", "Failed")
_NO_WARNING = frozenset(
    {Reason.STARTING, Reason.RESTARTING, Reason.QUEUED, Reason.SUSPENDED, Reason.RESUMED, Reason.FINISHED}
)


@dataclass(frozen=True)
class Announcement:
    """One Event."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def announcements(before: PeftJobStatus, after: PeftJobStatus) -> list[Announcement]:
    """Return what a change of the status means to people; pure."""
    told = []
    ready = after.condition("WorkersReady")
    if after.attempt != before.attempt and ready and ready.reason == Reason.STARTING:
        told.append(Announcement("Normal", Reason.STARTING, ready.message))
    if after.checkpoint and not before.checkpoint:  # the first: each would be an Event every few minutes
        text = f"the first checkpoint is of step {after.checkpoint.step}: {after.checkpoint.uri}"
        told.append(Announcement("Normal", Reason.CHECKPOINTED, text))
    for type_ in _TOLD_ONCE:
        old, new = before.condition(type_), after.condition(type_)
        if new and new.status != (old.status if old else "False"):
            told.append(Announcement("Warning" if type_ == "Failed" else "Normal", new.reason, new.message))
    old, new = before.condition("WorkersReady"), after.condition("WorkersReady")
    if new and (old is None or (old.status, old.reason) != (new.status, new.reason)):
        if new.status == "True":
            kind: Literal["Normal", "Warning"] = "Warning" if new.reason == Reason.WAITING_FOR_STORAGE else "Normal"
            told.append(Announcement(kind, new.reason, new.message))
        elif new.reason not in _NO_WARNING:
            told.append(Announcement("Warning", new.reason, new.message))
    return told


def event(metadata: Metadata, announcement: Announcement) -> dict[str, Any]:
    """Return the Event object; its name is as unique as kubelet's."""
    now = format_time(datetime.now(UTC))
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata.name}.{time.time_ns():x}", "namespace": metadata.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
        },
        "type": announcement.type,
        "reason": str(announcement.reason),
        "message": announcement.message[:MAX_MESSAGE],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
