"""The newest checkpoint that verifies, on all ranks. Called by `session` once the model is there; collective."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from peftjob_api import CheckpointInfo

from .state import TrainingState, read_state
from .stored import Stored
from .suits import check_suits

log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 64 * 2**20


def go_on(
    stored: Stored | None, job: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], device: torch.device
) -> tuple[CheckpointInfo, TrainingState] | None:
    """Return what the run goes on from, on all ranks; None: it begins.

    Args:
        stored: Of rank 0; None on the others. What earlier gangs left unfinished there is removed.
        job: What the run's numbers depend on.
        shapes: Of what is trained, in order.
        device: For the exchange.

    Raises:
        TrainerError: `CHECKPOINT_UNSUITABLE`: the checkpoint is of a job of other numbers. On rank 0: the store fails.
    """
    if stored is not None:
        stored.sweep()
    found = newest(stored, device)
    if found is None:
        return None
    uri, state = found
    check_suits(uri, (state.job, job), (state.shapes, shapes))
    log.info("going on after step %d, from %s", state.step, uri)
    return CheckpointInfo(step=state.step, uri=uri), state


def newest(stored: Stored | None, device: torch.device, before: int | None = None) -> tuple[str, TrainingState] | None:
    """Return the uri and the content of the newest checkpoint (before a step) that verifies, if there is one.

    Only rank 0 reads: the others get its bytes, so that all go on from the same.
    """
    found = stored.newest(before) if stored is not None else None
    files = [found.state, *([found.best] if found.best else [])] if found else []
    told = [(found.uri, [path.stat().st_size for path in files]) if found else None]
    dist.broadcast_object_list(told, src=0, device=device)
    if told[0] is None:
        return None
    uri, sizes = told[0]
    data = [_shared(files[n] if files else None, size, device) for n, size in enumerate(sizes)]
    return uri, read_state(data[0], data[1] if len(data) > 1 else None)


def _shared(path: Path | None, size: int, device: torch.device) -> bytes:
    """Return a file's bytes, which rank 0 has."""
    received = bytearray()
    parts = _chunks(path) if path is not None else None
    for start in range(0, size, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, size - start)
        if parts is not None:
            chunk = torch.frombuffer(bytearray(next(parts)), dtype=torch.uint8).to(device)
        else:
            chunk = torch.empty(length, dtype=torch.uint8, device=device)
        dist.broadcast(chunk, src=0)
        received += chunk.cpu().numpy().tobytes()
    return bytes(received)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_CHUNK_BYTES):
            yield data
