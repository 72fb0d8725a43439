"""Puts a finished adapter at the output prefix, so that it is there whole or not at all, and once.

Called by rank 0 of the trainer: `find_published` before anything is loaded, `publish` at the end. The order of writes
is what makes it safe; `claim` explains who may write:

1. the claim lists the files that are about to be written;
2. each file is written on the condition of the ETag that it had *before* the claim was last checked. A gang that was
   superseded in between can at most write what nobody has written since; the new gang sees this by its own failed
   condition, or by an ETag that is not its own, and writes again, until a look at all files after a check of the
   claim shows every one as it wrote it;
3. the claim is swapped for one that holds the manifest. This one conditional write is the commit: a superseded gang's
   fails;
4. `manifest.json`, for readers. If the gang dies before it, the next one finds the commit and writes it;
5. the checkpoints go: nobody needs them any more.

An ETag is a hash of content, so a write that finds the very same bytes as before cannot tell that they were replaced
by equal ones in between: harmless, unless a superseded gang's own file then differs, which needs three gangs of which
the first and third computed bitwise the same adapter and the second did not.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from peftjob_api import AdapterInfo, JobIdentity, Reason
from peftjob_api.constants import CLAIM_NAME, MANIFEST_NAME
from pydantic import ValidationError

from .checkpoints.names import discard
from .checkpoints.names import remove as remove_checkpoints
from .claim import Claim, read_claim
from .claim_record import ClaimRecord, FileEntry, Manifest
from .exits import TrainerError
from .storage import ObjectNotFound, PreconditionFailed, Store

log = logging.getLogger(__name__)

MERGED_FOLDER: Final = "merged"
"""At the output: the merged model."""
MAX_ROUNDS = 10
"""Of writing all files; each one lost means that a superseded gang wrote meanwhile."""


@dataclass(frozen=True)
class Written:
    """What became of a file that another rank wrote."""

    etag: str | None
    """None: its condition did not hold."""
    entry: FileEntry


class Shards(Protocol):
    """Files that all ranks write, each its own, when rank 0 says so."""

    @property
    def names(self) -> Sequence[str]:
        """Keys at the output."""
        ...

    def write(self, conditions: Mapping[str, str | None]) -> Mapping[str, Written]:
        """Have those with a condition written: an ETag to replace, or None where nothing is."""
        ...


def find_published(store: Store, uri: str, identity: JobIdentity) -> AdapterInfo | None:
    """Return the adapter that a gang of this PeftJob has already committed, if it is all there.

    Finishes a publication that was committed but for `manifest.json`. Called before anything is loaded, and again
    after `Claim.take` (a gang may have committed just before it lost its claim).

    Args:
        store: The output folder.
        uri: Its uri, as it shall stand in the status.
        identity: Of the PeftJob: adapters of others are not found.
    """
    found = read_claim(store)
    if found is not None and found[0].uid == identity.uid and found[0].manifest is not None:
        manifest = found[0].manifest
    else:
        # The claim is not part of the adapter; someone may have tidied it away.
        try:
            manifest = Manifest.model_validate_json(store.get(MANIFEST_NAME)[0])
        except (ObjectNotFound, ValidationError):
            return None
        if found is not None or manifest.uid != identity.uid:
            return None
    missing = _missing(store, manifest)
    if missing:
        log.warning("%s: the published adapter is incomplete (%s): it is made again", uri, ", ".join(missing))
        return None
    _write_manifest(store, manifest)
    _tidy(store, found[0] if found else None)
    return _info(uri, manifest)


def publish(
    store: Store, uri: str, claim: Claim, folder: Path, identity: JobIdentity, shards: Shards | None = None
) -> AdapterInfo:
    """Publish all files of a folder and those that other ranks make; return what the PeftJob's status says of them.

    If the PeftJob's adapter is there already, that one is returned and nothing is written.

    Args:
        store: The output folder.
        uri: Its uri, as it shall stand in the status.
        claim: This gang's.
        folder: Local; every file below it is published under its relative path.
        identity: Of the PeftJob.
        shards: What other ranks write.

    Raises:
        TrainerError: `SUPERSEDED`: a newer gang holds the claim; the prefix holds no adapter of this one.
    """
    claim.check()
    published = find_published(store, uri, identity)
    if published is not None:
        return published
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    assert not {MANIFEST_NAME, CLAIM_NAME} & paths.keys(), "these names are publish's own"
    files = {n: FileEntry(sha256=_sha256(path), size_bytes=path.stat().st_size) for n, path in paths.items()}
    names = [*files, *(shards.names if shards else ())]
    _refuse_foreign(store, claim, {*names, MANIFEST_NAME})
    claim.announce([*names, MANIFEST_NAME])
    files |= _write_files(store, claim, paths, shards)
    manifest = Manifest(
        uid=identity.uid,
        namespace=identity.namespace,
        name=identity.name,
        attempt=claim.record.attempt,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files=files,
    )
    claim.commit(manifest)
    _write_manifest(store, manifest)
    _tidy(store, claim.record)
    stale = [o.key for o in store.list() if o.key not in {*files, CLAIM_NAME, MANIFEST_NAME}]
    if stale:
        log.warning("%s: no part of this adapter, left by an earlier gang: %s", uri, ", ".join(stale))
    return _info(uri, manifest)


def _refuse_foreign(store: Store, claim: Claim, names: set[str]) -> None:
    """Raise when a file that we are about to write came to the prefix from elsewhere while we trained."""
    # By their names: a store may list late. And before the claim, which names every file of ours before it is written.
    present = [name for name in sorted(names - set(claim.record.files)) if store.head(name) is not None]
    claim.check()
    foreign = sorted(set(present) - set(claim.record.files))
    if foreign:
        raise TrainerError(
            Reason.OUTPUT_OCCUPIED,
            f"{store.uri} is in use: {', '.join(foreign)} came there from elsewhere while this PeftJob trained: "
            f"take it away, or set spec.output.uri to an empty folder",
        )


def _write_files(store: Store, claim: Claim, paths: dict[str, Path], shards: Shards | None) -> dict[str, FileEntry]:
    """Write files until all of them are seen as written, after a check of the claim; return the others' shards."""
    written: dict[str, str] = {}
    entries: dict[str, FileEntry] = {}
    others = list(shards.names) if shards else []
    for _ in range(MAX_ROUNDS):
        present = {name: info.etag for name in [*paths, *others] if (info := store.head(name)) is not None}
        claim.check()  # after reading the ETags: who takes the claim from here on makes our conditions fail
        todo = [name for name in [*paths, *others] if name not in written or present.get(name) != written[name]]
        if not todo:
            return entries
        conditions = {name: present.get(name) for name in todo if name in others}
        if shards and conditions:
            for name, result in shards.write(conditions).items():
                if result.etag is None:
                    log.info("%s/%s was written by someone else meanwhile", store.uri, name)
                else:
                    written[name], entries[name] = result.etag, result.entry
        for name in set(todo) & paths.keys():
            try:
                written[name] = store.put(
                    name, paths[name], if_none_match=name not in present, if_match=present.get(name)
                )
            except PreconditionFailed:
                log.info("%s/%s was written by someone else meanwhile", store.uri, name)
    raise TrainerError(Reason.STORAGE_UNAVAILABLE, f"{store.uri}: files keep changing while they are published")


def _write_manifest(store: Store, manifest: Manifest) -> None:
    """Write `manifest.json` as committed; only who has seen the commit gets here, so all write the same bytes."""
    data = manifest.to_bytes()
    for _ in range(MAX_ROUNDS):
        try:
            present, etag = store.get(MANIFEST_NAME)
        except ObjectNotFound:
            present, etag = b"", ""
        if present == data:
            return
        try:
            store.put(MANIFEST_NAME, data, if_none_match=not etag, if_match=etag or None)
        except PreconditionFailed:
            continue
        return
    raise TrainerError(Reason.STORAGE_UNAVAILABLE, f"{store.uri}/{MANIFEST_NAME} keeps changing")


def _tidy(store: Store, record: ClaimRecord | None) -> None:
    """Remove what a published adapter has no use for: checkpoints, and what killed writes left."""
    remove_checkpoints(store, known=[key for entry in record.checkpoints for key in entry.files] if record else [])
    discard(store, record.files if record else [])


def _missing(store: Store, manifest: Manifest) -> list[str]:
    """Return the files of a manifest that are not there with their sizes; by their names, for a store may list late."""

    def is_there(name: str) -> bool:
        found = store.head(name)
        return found is not None and found.size == manifest.files[name].size_bytes

    return [name for name in manifest.files if not is_there(name)]


def _info(uri: str, manifest: Manifest) -> AdapterInfo:
    return AdapterInfo(
        uri=uri,
        sha256=hashlib.sha256(manifest.to_bytes()).hexdigest(),
        size_bytes=sum(e.size_bytes for name, e in manifest.files.items() if not name.startswith(f"{MERGED_FOLDER}/")),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
