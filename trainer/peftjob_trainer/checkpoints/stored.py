"""The checkpoints of a PeftJob at its output, as the gang that holds the claim makes and reads them.

A checkpoint is there once the claim lists it, and before that not at all. Its files are written first, `manifest.json`
with the sha256 of each after them, and then the claim is swapped for one that has the manifest's own sha256: one
conditional write, which fails for a gang that was superseded. So nothing torn and nothing of a superseded gang is ever
loaded; what such writes leave behind is removed by the next gang.
"""

import hashlib
import logging
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from peftjob_api import CheckpointInfo
from peftjob_api.worker import WireModel
from pydantic import ValidationError

from ..claim import Claim
from ..claim_record import CheckpointEntry, FileEntry
from ..exits import TrainerError
from ..storage import ObjectNotFound
from ..storage.adapters import sha256
from .names import STATE_NAME, best_of, discard, folder_of, manifest_of, remove
from .state import TrainingState, check_finite, write_best, write_state

log = logging.getLogger(__name__)


class CheckpointManifest(WireModel):
    """The content of a checkpoint's `manifest.json`."""

    uid: str
    """Of the PeftJob."""
    attempt: int
    step: int
    created: str
    """RFC 3339, in UTC."""
    files: dict[str, FileEntry]
    """By key at the output; that of the best step lies beside the checkpoint."""

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return self.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Found:
    """A checkpoint that was verified, as files on this machine."""

    uri: str
    step: int
    state: Path
    best: Path | None


class _TornError(Exception):
    """A checkpoint is not what its manifest, or the claim, says."""


class Stored:
    """The checkpoints at the output of one claim. One thread at a time."""

    def __init__(self, claim: Claim, keep_last: int, work: Path) -> None:
        """Keep where they are.

        Args:
            claim: This gang's.
            keep_last: How many stay.
            work: Folder on this machine for files on their way.
        """
        self._claim, self._keep_last, self._work = claim, keep_last, work
        self._listed = list(claim.record.checkpoints)
        """Those that are worth to stay, from the oldest on."""
        self._best: tuple[int, str, FileEntry] | None = None
        """Step, key and digest of the best step's file that lies at the output."""

    def newest(self, before: int | None = None) -> Found | None:
        """Return the newest checkpoint (before a step) that verifies, in files that stay as long as this process.

        Those that do not are told in the log, and forgotten with the next that is written.

        Raises:
            TrainerError: The store fails, which says nothing about a checkpoint.
        """
        for entry in [e for e in reversed(self._listed) if before is None or e.step < before]:
            folder = Path(tempfile.mkdtemp(dir=self._work))
            try:
                return self._fetch(entry, folder)
            except (_TornError, ObjectNotFound, ValidationError) as error:
                log.warning("%s: not used, an older one is looked for: %s", self._uri(entry.folder), error)
            self._listed.remove(entry)
        return None

    def _fetch(self, entry: CheckpointEntry, folder: Path) -> Found:
        store, uid = self._claim.store, self._claim.record.uid
        data = store.get(manifest_of(entry.folder))[0]
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise _TornError(f"{manifest_of(entry.folder)} is not the one that the claim lists")
        manifest = CheckpointManifest.model_validate_json(data)
        if manifest.uid != uid:
            raise _TornError(f"it is of the PeftJob with the uid {manifest.uid}, this one's is {uid}")
        files = {}
        for number, (key, wanted) in enumerate(manifest.files.items()):
            files[key] = folder / str(number)
            store.download(key, files[key])
            if FileEntry(sha256=sha256(files[key]), size_bytes=files[key].stat().st_size) != wanted:
                raise _TornError(f"the sha256 of {key} is not the one in its manifest")
        best = next((key for key in manifest.files if not key.startswith(f"{entry.folder}/")), None)
        if best is not None and entry.best_step is not None:
            self._best = entry.best_step, best, manifest.files[best]
        state = files[f"{entry.folder}/{STATE_NAME}"]
        return Found(self._uri(entry.folder), entry.step, state, files[best] if best else None)

    def add(self, state: TrainingState) -> CheckpointInfo:
        """Write a checkpoint, then drop those that are too many.

        Raises:
            TrainerError: `SUPERSEDED`: another gang goes on from what the claim lists. `NON_FINITE_LOSS`: the state is
                none to go on from. Others: the store fails.
        """
        check_finite(state)
        claim = self._claim
        claim.check()  # where a successor has published already, nobody would sweep what is written now
        folder = folder_of(state.step, claim.number)
        with tempfile.TemporaryDirectory(dir=self._work) as local:
            path = Path(local) / STATE_NAME
            write_state(state, path)
            files = {f"{folder}/{STATE_NAME}": self._put(f"{folder}/{STATE_NAME}", path)}
            if state.best is not None and state.best_step is not None:
                if self._best is None or self._best[0] != state.best_step:
                    path, key = Path(local) / "best", best_of(state.best_step, claim.number)
                    write_best(state.best, path)
                    self._best = state.best_step, key, self._put(key, path)
                files[self._best[1]] = self._best[2]
        manifest = CheckpointManifest(
            uid=claim.record.uid,
            attempt=claim.record.attempt,
            step=state.step,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files=files,
        ).to_bytes()
        claim.store.put(manifest_of(folder), manifest)
        entry = CheckpointEntry(
            step=state.step,
            folder=folder,
            sha256=hashlib.sha256(manifest).hexdigest(),
            files=[*files, manifest_of(folder)],
            best_step=state.best_step,
        )
        self._list(entry)
        return CheckpointInfo(step=state.step, uri=self._uri(folder))

    def sweep(self) -> None:
        """Remove what earlier gangs wrote of checkpoints, and of files to publish, that never came to be."""
        listed = {key for entry in self._claim.record.checkpoints for key in entry.files}
        # A gang that superseded this one writes under a higher number.
        remove(self._claim.store, lambda key, number: key not in listed and number < self._claim.number)
        discard(self._claim.store, self._claim.record.files)

    def clear(self) -> None:
        """Forget all, and remove them: nobody is to go on from here.

        Raises:
            TrainerError: `SUPERSEDED`, or the store fails.
        """
        self._listed = []
        self._claim.list_checkpoints(self._listed)
        remove(self._claim.store)

    def _put(self, key: str, path: Path) -> FileEntry:
        self._claim.store.put(key, path)
        return FileEntry(sha256=sha256(path), size_bytes=path.stat().st_size)

    def _list(self, entry: CheckpointEntry) -> None:
        """Have the claim list a checkpoint, then remove what only those had that it lists no longer."""
        before = self._claim.record.checkpoints
        self._listed = [*(e for e in self._listed if e.step < entry.step), entry][-self._keep_last :]
        self._claim.list_checkpoints(self._listed)
        needed = {key for e in self._listed for key in e.files}
        for key in [key for e in before for key in e.files if key not in needed]:
            with suppress(TrainerError):  # the next gang's sweep finds it
                self._claim.store.delete(key)

    def _uri(self, folder: str) -> str:
        return f"{self._claim.store.uri}/{folder}"
