"""Names of checkpoints at the output. Used by `claim`, `publish` and `stored`.

Each name ends with the number of the claim under which it is written, so that two gangs never write one file.
"""

import logging
import re
from collections.abc import Callable, Collection
from typing import Final

from peftjob_api.constants import CHECKPOINTS_FOLDER, MANIFEST_NAME

from ..exits import TrainerError
from ..storage import Store

log = logging.getLogger(__name__)

STATE_NAME: Final = "state.safetensors"
_OURS: Final = re.compile(rf"{CHECKPOINTS_FOLDER}/(?:step|best)-\d+-claim-(\d+)[./]")


def folder_of(step: int, number: int) -> str:
    """Return the key below which a step's checkpoint lies, without a `/` at its end."""
    return f"{CHECKPOINTS_FOLDER}/step-{step:08d}-claim-{number}"


def manifest_of(folder: str) -> str:
    """Return the key of a checkpoint's manifest, which is written last."""
    return f"{folder}/{MANIFEST_NAME}"


def best_of(step: int, number: int) -> str:
    """Return the key of the parameters of the best step so far, which checkpoints refer to."""
    return f"{CHECKPOINTS_FOLDER}/best-{step:08d}-claim-{number}.safetensors"


def claim_number(key: str) -> int | None:
    """Return the number of the claim under which a file of a checkpoint was written; None: it is no such file."""
    found = _OURS.match(key)
    return int(found[1]) if found else None


def remove(store: Store, is_over: Callable[[str, int], bool] = lambda *_: True, known: Collection[str] = ()) -> None:
    """Remove files of checkpoints, and of unfinished ones; where the store refuses, they stay and the log says so.

    Args:
        store: The output folder.
        is_over: Tells by a key, and the number of the claim that it was written under, whether nobody needs it.
        known: Keys that are there even if the store, which may list late, does not show them.
    """
    prefix = f"{CHECKPOINTS_FOLDER}/"

    def goes(key: str) -> bool:
        number = claim_number(key)
        return number is not None and is_over(key, number)

    try:
        for key in filter(goes, {o.key for o in store.list(prefix)}.union(known)):
            store.delete(key)
        store.discard(prefix, goes)
    except TrainerError as error:  # a right to write is often none to delete
        log.warning("checkpoints that nobody needs stay: %s", error.message)


def discard(store: Store, names: Collection[str]) -> None:
    """Remove what killed writes left of files to publish; where the store refuses, it stays and the log says so."""
    try:
        store.discard("", lambda key: key in names)
    except TrainerError as error:
        log.warning("unfinished writes stay: %s", error.message)
