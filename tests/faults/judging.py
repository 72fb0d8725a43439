"""What a job must have come to after its faults, whatever they were; pure. Used by the lab and by the cluster's part.

What an undisturbed run of the same job gave is the measure: the trained numbers are equal to the last bit, for the
world is as large, and resumed steps are the steps that the run would have made.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from peftjob_api.constants import CHECKPOINTS_FOLDER, CLAIM_NAME, MANIFEST_NAME

from .plans import KINDS, Plan

Object = Mapping[str, Any]

WEIGHTS: Final = "adapter_model.safetensors"
METRICS: Final = "metrics.json"
_FAILURES: Final = frozenset({"InternalError", "StorageUnavailable", "LostPeer", "Hang"})
"""Reasons with which a job may fail that has used up its restarts."""


@dataclass(frozen=True)
class Trained:
    """What an undisturbed run came to."""

    weights: str
    """sha256 of the adapter's weights."""
    losses: Sequence[tuple[int, float, float]]
    """Step, loss and norm of the gradient, of every step."""
    evaluations: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Acceptance:
    """A change of the claim that the store accepted."""

    number: int
    attempt: int
    gang: str


@dataclass(frozen=True)
class End:
    """What was found when a job was over, and nothing was left that a fault still held."""

    job: Object | None
    """The PeftJob; None: it did not end in time."""
    files: Mapping[str, bytes]
    """All objects at the output, by key below it."""
    children: Sequence[str] = ()
    """`Kind/name` of the Jobs, Services and ConfigMaps that carry the PeftJob's label."""
    unended: Sequence[str] = ()
    """Pods that have not ended."""
    processes: Sequence[int] = ()
    """Of its workers, that are still there."""
    uploads: Sequence[str] = ()
    """Keys of multipart uploads that nobody ended."""
    accepted: Sequence[Acceptance] = ()
    """In the store's order."""
    twice: Sequence[str] = ()
    """Ranks that ran twice at one time on nodes that could be reached."""
    events: Sequence[tuple[str, str, str]] = ()
    """Type, reason and message of what was told about the PeftJob."""
    left_after_deletion: Sequence[str] = ()
    """Objects that outlived the PeftJob."""


def trained(files: Mapping[str, bytes]) -> Trained:
    """Return what a run came to, from the files that it published."""
    history = json.loads(files[METRICS])["history"]
    losses = [(step["step"], step["loss"], step["gradNorm"]) for step in history["steps"]]
    return Trained(hashlib.sha256(files[WEIGHTS]).hexdigest(), losses, history["evaluations"])


def judge(plan: Plan, end: End, undisturbed: Trained) -> list[str]:
    """Return what is wrong; empty where all is as it must be."""
    if end.job is None:
        return ["the job did not end"]
    found = [
        *(f"a rank ran twice: {text}" for text in end.twice),
        *(f"{name} has not ended" for name in end.unended),
        *(f"process {pid} is still there" for pid in end.processes),
        *(f"the multipart upload of {key} was left" for key in end.uploads),
        *(f"{name} outlived the PeftJob" for name in end.left_after_deletion),
        *_superseded(end.accepted),
        *_children(plan, end),
    ]
    status = end.job.get("status", {})
    if status.get("state") == "Succeeded":
        return [*found, *_published(end, status, undisturbed)]
    if status.get("state") == "Failed":
        return [*found, *_failed(plan, end, status)]
    return [*found, f"the job ended as {status.get('state')}"]


def _published(end: End, status: Object, undisturbed: Trained) -> list[str]:
    files = end.files
    if MANIFEST_NAME not in files or CLAIM_NAME not in files:
        return ["Succeeded, but there is no manifest or no claim at the output"]
    manifest = json.loads(files[MANIFEST_NAME])
    wrong = [
        f"{name} is not what the manifest says"
        for name, entry in manifest["files"].items()
        if hashlib.sha256(files.get(name, b"")).hexdigest() != entry["sha256"]
    ]
    if hashlib.sha256(files[MANIFEST_NAME]).hexdigest() != status.get("adapter", {}).get("sha256"):
        wrong.append("status.adapter.sha256 is not the manifest's")
    if json.loads(files[CLAIM_NAME]).get("manifest") != manifest:
        wrong.append("the manifest is not the one that was committed")
    extra = sorted(files.keys() - manifest["files"].keys() - {MANIFEST_NAME, CLAIM_NAME})
    wrong += [f"{key} was left at the output" for key in extra]
    if wrong:
        return wrong
    got = trained(files)
    if got.weights != undisturbed.weights:
        wrong.append("the adapter is not the undisturbed run's")
    if got.losses != undisturbed.losses:
        pairs = zip(got.losses, undisturbed.losses, strict=False)
        first = next((pair for pair in pairs if pair[0] != pair[1]), "their number")
        wrong.append(f"the losses are not the undisturbed run's, first: {first}")
    if got.evaluations != undisturbed.evaluations:
        wrong.append("the evaluations are not the undisturbed run's")
    return wrong


def _failed(plan: Plan, end: End, status: Object) -> list[str]:
    reason, message = _why(status)
    wrong = []
    if plan.max_restarts >= sum(KINDS[strike.fault].counts for strike in plan.strikes):
        wrong.append(f"Failed, though fewer failures were caused than it has restarts: {reason}: {message}")
    if reason not in _FAILURES:
        wrong.append(f"Failed with {reason}, which no fault explains: {message}")
    in_a_row = status.get("restartsWithoutProgress", 0)
    if in_a_row != plan.max_restarts:
        wrong.append(f"Failed after {in_a_row} restarts in a row of {plan.max_restarts}")
    if MANIFEST_NAME in end.files:
        wrong.append("Failed, but a manifest lies at the output")
    torn = [key for key in end.files if key != CLAIM_NAME and not key.startswith(f"{CHECKPOINTS_FOLDER}/")]
    announced = json.loads(end.files[CLAIM_NAME])["files"] if CLAIM_NAME in end.files else []
    return [*wrong, *(f"{key} was left, of which the claim knows nothing" for key in torn if key not in announced)]


def _why(status: Object) -> tuple[str, str]:
    failed: Object = next((c for c in status.get("conditions", []) if c["type"] == "Failed"), {})
    return failed.get("reason", ""), failed.get("message", "")


def _superseded(accepted: Sequence[Acceptance]) -> list[str]:
    """Return what was accepted from gangs that had lost the claim: numbers of claims and attempts never go down."""
    wrong = []
    for before, after in pairwise(accepted):
        if after.number < before.number or after.attempt < before.attempt:
            wrong.append(f"the claim of {after} was accepted after that of {before}")
        if after.number == before.number and after.gang != before.gang:
            wrong.append(f"two gangs had one claim: {before}, {after}")
    return wrong


def _children(plan: Plan, end: End) -> list[str]:
    assert end.job is not None
    attempt = end.job.get("status", {}).get("attempt")
    allowed = {f"Job/{plan.name}-{attempt}", f"Service/{plan.name}-workers", f"ConfigMap/{plan.name}-run"}
    return [f"{name} is an orphan" for name in end.children if name not in allowed]
