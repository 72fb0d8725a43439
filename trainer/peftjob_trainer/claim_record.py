"""What the claim at an output prefix holds, and who may take it; pure. `claim` reads and writes it.

Who may take it (`decide`):

* nobody holds it and the prefix is empty: anyone;
* the same PeftJob holds it: a gang of the same or a higher attempt that was not itself superseded before;
* a PeftJob of the same namespace and name but another uid holds it, without a finished adapter: the older one was
  deleted, since Kubernetes has one object of a name; the claim remembers the older uid and refuses it from then on;
* any other PeftJob, finished or not, or files that the claim does not list: refused with `OUTPUT_OCCUPIED`, and
  nothing is changed. So is who wants a folder inside of one that another PeftJob has not finished, where its files
  would be strangers. (Whether another job still runs cannot be seen from here, so its unfinished claim is removed by a
  person who knows: the message says which object.)

The claim is also the write-ahead record of publishing: `files` names what may be written before it is, so that what a
killed gang left behind is known as ours; `manifest` is set by the one conditional write that commits the adapter. In
the same way `checkpoints` lists what the next gang may go on from.
"""

import json
from collections.abc import Sequence

from peftjob_api import JobIdentity, Reason
from peftjob_api.constants import CLAIM_NAME
from peftjob_api.worker import WireModel
from pydantic import Field

from .checkpoints.names import claim_number
from .exits import TrainerError

MAX_REMEMBERED = 256
"""Gangs that lost the claim."""


class FileEntry(WireModel):
    """One file of an adapter."""

    sha256: str
    size_bytes: int


class Manifest(WireModel):
    """What a published adapter consists of: the content of `manifest.json`."""

    uid: str
    """Of the PeftJob."""
    namespace: str
    name: str
    attempt: int
    created: str
    """RFC 3339, in UTC."""
    files: dict[str, FileEntry]
    """By key at the prefix."""

    def to_bytes(self) -> bytes:
        """Return the file's content: the same for the same manifest, since its hash names the adapter."""
        return (json.dumps(self.to_wire(), indent=1, sort_keys=True) + "\n").encode()


class CheckpointEntry(WireModel):
    """A checkpoint that counts."""

    step: int
    folder: str
    """Key below which it lies."""
    sha256: str
    """Of its manifest."""
    files: list[str]
    """Keys of all that it needs."""
    best_step: int | None = None
    """The step of the best evaluation up to then."""


class ClaimRecord(WireModel):
    """The content of the claim object."""

    uid: str
    namespace: str
    name: str
    attempt: int
    gang: str
    token: str
    """Random, of one `Claim.take`: tells our own write whose answer got lost from someone else's."""
    number: int
    """One more than the claim before; checkpoints live under it."""
    superseded: list[str] = Field(default_factory=list)
    """Gangs, and uids of deleted PeftJobs, that lost the claim and never get it back."""
    files: list[str] = Field(default_factory=list)
    """Keys at the prefix that this PeftJob's gangs wrote or were about to write."""
    checkpoints: list[CheckpointEntry] = Field(default_factory=list)
    """From the oldest on; what lies at the prefix beside them is none."""
    manifest: Manifest | None = None
    """Set when the adapter is committed: what `manifest.json` holds."""

    def to_bytes(self) -> bytes:
        """Return the object's content."""
        return json.dumps(self.to_wire(), indent=1, sort_keys=True).encode()


def decide(
    record: ClaimRecord | None, keys: Sequence[str], identity: JobIdentity, attempt: int, gang: str, uri: str
) -> None:
    """Raise unless this gang may take the claim; pure.

    Args:
        record: The claim at the prefix, if there is one.
        keys: All objects at the prefix.
        identity: Of the PeftJob that wants it.
        attempt: Number of the attempt that wants it.
        gang: Id of the gang that wants it.
        uri: Of the prefix, for messages.

    Raises:
        TrainerError: `OUTPUT_OCCUPIED` or `SUPERSEDED`.
    """
    foreign = not_ours(record, keys)
    if record is not None and record.uid != identity.uid:
        owner = f"the PeftJob {record.namespace}/{record.name} (uid {record.uid})"
        if record.manifest is not None:
            raise occupied(uri, f"it holds the adapter of {owner}")
        if identity.uid in record.superseded:
            raise occupied(uri, f"{owner} was created after this one, with the same name, and took it over")
        if (record.namespace, record.name) != (identity.namespace, identity.name):
            raise occupied(
                uri,
                f"{owner} claims it and has not finished",
                f", or, if that PeftJob is gone, delete {uri}/{CLAIM_NAME} and what else lies there",
            )
    if foreign:
        some = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise occupied(uri, f"it holds files that this PeftJob did not write ({some})", ", or empty this one")
    if record is None or record.uid != identity.uid:
        return
    if attempt < record.attempt:
        raise superseded(uri, f"attempt {record.attempt} claimed it, this is attempt {attempt}", record.attempt)
    if gang in record.superseded:
        raise superseded(uri, f"gang {record.gang} claimed it after this one")


def not_ours(record: ClaimRecord | None, keys: Sequence[str]) -> list[str]:
    """Return which of some objects at a prefix the claim there, if there is one, knows nothing of; pure."""
    ours = {CLAIM_NAME, *(record.files if record else ())}
    return [key for key in keys if key not in ours and (record is None or claim_number(key) is None)]


def successor(before: ClaimRecord | None, identity: JobIdentity, attempt: int, gang: str, token: str) -> ClaimRecord:
    """Return the claim that replaces another."""
    lost = list(before.superseded) if before else []
    if before is not None:
        if before.uid != identity.uid:
            lost.append(before.uid)
        elif before.gang != gang:
            lost.append(before.gang)
    return ClaimRecord(
        uid=identity.uid,
        namespace=identity.namespace,
        name=identity.name,
        attempt=attempt,
        gang=gang,
        token=token,
        number=before.number + 1 if before else 1,
        superseded=list(dict.fromkeys(lost))[-MAX_REMEMBERED:],
        files=before.files if before else [],
        checkpoints=before.checkpoints if before and before.uid == identity.uid else [],
        # A committed adapter of ours stays committed until a new commit replaces it.
        manifest=before.manifest if before and before.uid == identity.uid else None,
    )


def occupied(uri: str, why: str, otherwise: str = "") -> TrainerError:
    """Return the error of a prefix that others use; `otherwise` is one more way out."""
    return TrainerError(
        Reason.OUTPUT_OCCUPIED, f"{uri} is in use: {why}: set spec.output.uri to an empty folder{otherwise}"
    )


def superseded(uri: str, why: str, attempt: int | None = None) -> TrainerError:
    """Return the error of a gang that lost the claim, by the attempt that has it now, if that is known."""
    text = f"a newer gang works on {uri}: {why}; this one ends and publishes nothing"
    return TrainerError(Reason.SUPERSEDED, text, attempt)


def unsupported(uri: str, why: str) -> TrainerError:
    """Return the error of a store that two gangs could publish to at once."""
    return TrainerError(
        Reason.CONDITIONAL_WRITES_UNSUPPORTED,
        f"{uri}: the store knows no conditional writes ({why}), without which two gangs could publish at once: "
        f"use a store that has If-Match and If-None-Match on PutObject (Amazon S3, MinIO, Ceph, versitygw, ...), "
        f"or pvc://, in spec.output.uri",
    )
