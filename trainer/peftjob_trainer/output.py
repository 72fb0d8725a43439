"""What rank 0 does at the output: claims it, writes what is published, and leaves it as it was after a failure.

Called by `session`; `publish` moves what was written here to its place.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftjob_api import AdapterInfo, PlanInfo

from .checkpoints.stored import Stored
from .claim import Claim
from .data_report import SplitReport
from .handoff import Go
from .history import History
from .model_card import write_model_card
from .publish import find_published
from .report import write_report
from .storage import Store, open_store
from .storage.patience import ONCE
from .storage.uris import parse
from .storage.waiting import WaitingStore
from .train import Run
from .usage import Usage

log = logging.getLogger(__name__)


def take_claim(go: Go) -> tuple[Claim, AdapterInfo | None]:
    """Claim the output; return also the adapter that a gang before finished at the last moment."""
    output = go.run.spec.output.uri
    claim = Claim.take(open_store(output, go.run.spec.storage), go.run.job, go.attempt, go.gang)
    return claim, find_published(claim.store, output, go.run.job)


def patient_output(loop: Run) -> Store:
    """Return the output as a store that a finished adapter waits for, however long it is away."""
    inner = open_store(loop.spec.output.uri, loop.spec.storage, ONCE)
    return WaitingStore(inner, loop.progress.waiting, loop.interrupted)


def release(claim: Claim, stored: Stored | None) -> None:
    """Leave the output as it was, for nobody of this PeftJob comes again; a failure to do so hides no cause.

    Args:
        claim: Taken back unless something counts that was written under it.
        stored: The checkpoints, if nobody is to go on from them either.
    """
    try:
        if stored is not None:
            stored.clear()
        claim.release()
    except Exception as error:
        log.warning("%s: the claim stays there: %s", claim.store.uri, error)


def write_adapter(
    folder: Path, go: Go, loop: Run, plan: PlanInfo, history: History, processor: Any, data: Sequence[SplitReport]
) -> None:
    """Write everything that is published."""
    spec = go.run.spec
    location = parse(spec.base_model.uri)
    base = location.container if location.scheme == "hf" else spec.base_model.uri
    loop.method.save(loop.sharded.model, folder, base, spec.base_model.revision)
    processor.save_pretrained(folder)
    dtype = str(loop.sharded.base[0].dtype).removeprefix("torch.")
    Usage.of(spec, loop.splits.labels, loop.splits.chat, dtype).write(folder)
    write_report(folder, go.run, plan, history, data)
    write_model_card(folder, go.run, plan, history, labels=loop.splits.labels, chat=loop.splits.chat)
