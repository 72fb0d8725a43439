"""From any exception to a reason and a message. Used by `rank` and `launch`, without importing any library's classes.

Foreseen failures are `TrainerError`s already. Of what libraries raise, two kinds have a meaning to the operator: lost
connections between ranks, which are never the cause, and memory that ran out.
"""

import re

from peftjob_api import Reason

from .exits import TrainerError

_LOST_PEER_TYPES = {"DistNetworkError", "DistStoreError"}
_LOST_PEER = re.compile(
    r"connection (closed|reset|refused)|broken pipe|time(d )?out|pair closure|connectFullMesh|remote process exited|"
    r"nccl(Remote|System)Error|communicator was aborted",
    re.IGNORECASE,
)
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|cannot allocate memory", re.IGNORECASE
)
_MAX_LINE = 600


def explain(error: BaseException) -> TrainerError:
    """Return the error that says what an exception means; a `TrainerError` is returned as it is."""
    if isinstance(error, TrainerError):
        return error
    name = type(error).__name__
    text = _first_line(error)
    if (
        isinstance(error, MemoryError)
        or name == "OutOfMemoryError"
        or (_is_runtime(error) and _OUT_OF_MEMORY.search(text))
    ):
        return TrainerError(
            Reason.OUT_OF_MEMORY,
            f"memory ran out ({text or name}): lower spec.training.microBatchSize or spec.dataset.maxLength, set "
            f"gradientCheckpointing, use more workers.nodes, or give the pods more memory",
        )
    if name in _LOST_PEER_TYPES or (_is_runtime(error) and _LOST_PEER.search(str(error))):
        return TrainerError(Reason.LOST_PEER, f"lost the connection to another rank, which tells the cause ({text})")
    return TrainerError(Reason.INTERNAL_ERROR, f"{name}: {text}: the traceback is in the log")


def _is_runtime(error: BaseException) -> bool:
    """Tell whether this may come from torch's own code, which raises plain `RuntimeError`s."""
    return isinstance(error, RuntimeError | OSError)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:_MAX_LINE] if lines else ""
