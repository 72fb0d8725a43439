"""Names of checkpoints at the output. Used by `claim`, `publish` and `stored`.

Each name ends with the number of the claim under which it is written, so that two gangs never write one file.
"""

import re
from typing import Final

from peftjob_api.constants import CHECKPOINTS_FOLDER, MANIFEST_NAME

from ..storage import Store

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


def remove_all(store: Store) -> None:
    """Remove every checkpoint, and what unfinished ones left: of a job that is over for good."""
    prefix = f"{CHECKPOINTS_FOLDER}/"
    for key in [*(o.key for o in store.list(prefix)), *store.unfinished(prefix)]:
        if claim_number(key) is not None:
            store.delete(key)
