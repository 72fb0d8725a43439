"""Whose turn it is at an output prefix: the claim, one small object that only its owner may advance.

Taken by rank 0 of every gang before it trains, checked and committed by `publish`. No gang can be stopped from the
outside for certain (its node may merely be out of reach), so safety comes from here: the claim changes by conditional
writes only, a gang that lost it can no longer commit, and it learns so from the store's own answer. `claim_record` says
what it holds and who may take it.

Who has just taken a claim looks once more: of two that begin at one moment inside of each other, one notices.
"""

import logging
import random
import secrets
import time
from collections.abc import Sequence
from typing import Self

from peftjob_api import JobIdentity, Reason
from peftjob_api.constants import CLAIM_NAME
from pydantic import ValidationError

from .claim_record import (
    CheckpointEntry,
    ClaimRecord,
    Manifest,
    decide,
    not_ours,
    occupied,
    successor,
    superseded,
    unsupported,
)
from .exits import TrainerError
from .storage import ConditionsUnsupported, ObjectNotFound, PreconditionFailed, Store

log = logging.getLogger(__name__)

MAX_TRIES = 20
"""Lost races for the claim before giving up; each one lost means that another gang won."""
_NO_SUCH_ETAG = '"00000000000000000000000000000000"'


def check_output(store: Store, identity: JobIdentity, attempt: int, gang: str) -> None:
    """Raise what `Claim.take` would raise now, but change nothing: for the start, before inputs are fetched.

    Raises:
        TrainerError: `OUTPUT_OCCUPIED`, `SUPERSEDED`, or what the storage service says.
    """
    _look(store, identity, attempt, gang)


def _look(store: Store, identity: JobIdentity, attempt: int, gang: str) -> tuple[ClaimRecord, str] | None:
    """Return the claim at a prefix that this gang may take or replace; raise if it may not."""
    keys = [o.key for o in store.list()]  # before the claim, which names every file before it is written
    found = read_claim(store)
    record = found[0] if found else None
    if not any(store.head(key) for key in not_ours(record, keys)):
        keys = []  # a store that lists late shows what was there once
    decide(record, keys, identity, attempt, gang, store.uri)
    _refuse_inner(store, identity)
    return found


def _refuse_inner(store: Store, identity: JobIdentity) -> None:
    """Raise when the output lies inside of one that another PeftJob works on."""
    for outer in store.around():
        try:
            found = read_claim(outer)
        except TrainerError as error:
            if error.reason is Reason.STORAGE_UNAVAILABLE:
                raise
            continue  # there are no rights on it, or what lies there is nothing of ours
        if found is None or found[0].manifest is not None:
            continue
        record = found[0]
        if (record.namespace, record.name) != (identity.namespace, identity.name):
            raise occupied(
                store.uri,
                f"it lies inside of {outer.uri}, which the PeftJob {record.namespace}/{record.name} claims and has not "
                f"finished",
                f" elsewhere, or, if that PeftJob is gone, delete {outer.uri}/{CLAIM_NAME}",
            )


def read_claim(store: Store) -> tuple[ClaimRecord, str] | None:
    """Return the claim at a prefix and its ETag, or None.

    Raises:
        TrainerError: `OUTPUT_OCCUPIED` when the object is no claim that this version can read.
    """
    try:
        data, etag = store.get(CLAIM_NAME)
    except ObjectNotFound:
        return None
    try:
        return ClaimRecord.model_validate_json(data), etag
    except ValidationError as error:
        raise occupied(store.uri, f"{CLAIM_NAME} there is no claim of this version of PeftJob") from error


class Claim:
    """The right of one gang to publish at a prefix, for as long as nobody takes it away."""

    def __init__(self, store: Store, record: ClaimRecord, etag: str) -> None:
        self.store = store
        self._record = record
        self._etag = etag

    @property
    def number(self) -> int:
        """One more than that of the gang before."""
        return self._record.number

    @property
    def record(self) -> ClaimRecord:
        """The claim as this gang last wrote it."""
        return self._record

    @classmethod
    def take(cls, store: Store, identity: JobIdentity, attempt: int, gang: str) -> Self:
        """Take the claim of a prefix for a gang, from whoever had it before; look for a finished adapter first.

        Args:
            store: The output folder.
            identity: Of the PeftJob.
            attempt: Number of the attempt, from 1; a lower one never replaces a higher.
            gang: What tells this gang from all others of the PeftJob, such as its Job's uid and number of starts.

        Raises:
            TrainerError: `OUTPUT_OCCUPIED` (by others, nothing is changed), `SUPERSEDED` (by a newer gang),
                `CONDITIONAL_WRITES_UNSUPPORTED` (the store would let two gangs publish at once).
        """
        token = secrets.token_hex(16)
        for try_ in range(MAX_TRIES):
            if try_:
                time.sleep(random.uniform(0, 0.05 * try_))  # the winner of a race needs a moment to get out of the way
            found = _look(store, identity, attempt, gang)
            if found and found[0].token == token:
                return cls(store, *found)  # our write of the last round arrived, its answer did not
            if found:
                _probe(store, found[0], found[1])
            record = successor(found[0] if found else None, identity, attempt, gang, token)
            try:
                etag = _swap(store, record, found[1] if found else None)
            except PreconditionFailed:
                continue
            claim = cls(store, record, etag)
            if not found:
                try:
                    _probe(store, record, etag)
                except TrainerError:
                    store.delete(CLAIM_NAME)  # the prefix was empty: leave it so
                    raise
                claim._look_again(identity)
            return claim
        raise TrainerError(
            Reason.STORAGE_UNAVAILABLE, f"{store.uri}/{CLAIM_NAME} changed {MAX_TRIES} times while it was being taken"
        )

    def through(self, store: Store) -> Self:
        """Return the same claim, to be checked and advanced by another way to its store from here on."""
        return type(self)(store, self._record, self._etag)

    def check(self) -> None:
        """Make sure that the claim is still this gang's.

        Raises:
            TrainerError: `SUPERSEDED`.
        """
        found = read_claim(self.store)
        if found is None:
            raise superseded(self.store.uri, f"its {CLAIM_NAME} was removed")
        if found[0].token != self._record.token:
            raise superseded(
                self.store.uri, f"attempt {found[0].attempt} (gang {found[0].gang}) claimed it", found[0].attempt
            )
        self._record, self._etag = found

    def announce(self, names: Sequence[str]) -> None:
        """Record the names of files before they are written, so that a later gang knows them as ours.

        A commit of before (of an adapter that lost files since) no longer counts from here on.

        Raises:
            TrainerError: `SUPERSEDED`.
        """
        files = sorted({*self._record.files, *names})
        self._advance(self._record.model_copy(update={"files": files, "manifest": None}))

    def list_checkpoints(self, entries: Sequence[CheckpointEntry]) -> None:
        """Declare what checkpoints there are: those, and no others.

        Raises:
            TrainerError: `SUPERSEDED`.
        """
        self._advance(self._record.model_copy(update={"checkpoints": list(entries)}))

    def commit(self, manifest: Manifest) -> None:
        """Declare the files of a manifest to be the PeftJob's adapter, once and for all.

        Raises:
            TrainerError: `SUPERSEDED`: another gang holds the claim now, and this one's files count for nothing.
        """
        self._advance(self._record.model_copy(update={"manifest": manifest}))

    def release(self) -> None:
        """Take the claim away again, if it is still this gang's and nothing that counts was written under it.

        Called when the PeftJob has failed for good, so that its output is as it was. A gang that takes the claim at
        the same moment may find it removed, and ends.
        """
        self.check()
        record = self._record
        if not record.files and not record.checkpoints and record.manifest is None:
            self.store.delete(CLAIM_NAME)

    def _look_again(self, identity: JobIdentity) -> None:
        """Give a claim back, that was just taken, if the claim of a folder inside of it or around it came first."""
        try:
            _look(self.store, identity, self._record.attempt, self._record.gang)
        except TrainerError as error:
            if error.reason is Reason.OUTPUT_OCCUPIED:
                self.release()
            raise

    def _advance(self, record: ClaimRecord) -> None:
        for _ in range(MAX_TRIES):
            try:
                self._etag = _swap(self.store, record, self._etag)
            except PreconditionFailed:
                self.check()  # ends here if the claim was taken; else our own write arrived and its answer did not
                if self._record == record:
                    return
                continue
            self._record = record
            return
        raise TrainerError(Reason.STORAGE_UNAVAILABLE, f"{self.store.uri}/{CLAIM_NAME} cannot be written")


def _swap(store: Store, record: ClaimRecord, etag: str | None) -> str:
    """Write the claim if it still has an ETag, or if there is none yet."""
    try:
        return store.put(CLAIM_NAME, record.to_bytes(), if_none_match=etag is None, if_match=etag)
    except ConditionsUnsupported as error:
        raise unsupported(store.uri, str(error)) from error


def _probe(store: Store, record: ClaimRecord, etag: str) -> None:
    """Make sure that the store heeds conditions: two writes that must be refused, of what is there anyway.

    Raises:
        TrainerError: `CONDITIONAL_WRITES_UNSUPPORTED`.
    """
    for condition in ({"if_none_match": True}, {"if_match": _NO_SUCH_ETAG}):
        try:
            store.put(CLAIM_NAME, record.to_bytes(), **condition)
        except PreconditionFailed:
            continue
        except ConditionsUnsupported as error:
            raise unsupported(store.uri, str(error)) from error
        raise unsupported(store.uri, f"it accepted a write that {next(iter(condition))} forbids")
