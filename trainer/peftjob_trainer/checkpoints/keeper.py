"""When a checkpoint is due, and its writing in the background. Held by the loop on every rank; only rank 0's writes.

A step waits for a copy of what is trained and its moments, never for the store: while one checkpoint is being written,
the next one waits for the first step after it. A store that fails costs no step either: the status says since when
checkpoints wait, and after a pause that grows to a minute the one of the step then is tried, so that one is there soon
after the store is.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final

import torch.distributed as dist
from peftjob_api import CheckpointInfo, Reason, WaitingInfo
from peftjob_api.checkpoint_spec import CheckpointSpec

from ..exits import TrainerError
from ..failures import explain
from ..storage.patience import LASTING, pause
from .state import TrainingState, told_sizes
from .stored import Stored

log = logging.getLogger(__name__)

STOP_SECONDS: Final = 12.0
"""For the last checkpoint after SIGTERM: the launcher kills after 20, and a step may have taken some of them."""

_OF_THE_STORE: Final = LASTING.reasons | {Reason.BUCKET_NOT_FOUND}
"""Reasons that are told as such; others are the state's own, or ours."""


class Checkpoints:
    """Of one run."""

    def __init__(
        self,
        spec: CheckpointSpec,
        stored: Stored | None = None,
        told: Callable[[CheckpointInfo], None] = lambda _: None,
        waits: Callable[[WaitingInfo | None], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count.

        Args:
            spec: `spec.checkpoint`.
            stored: Where they go; None on ranks that write none.
            told: Called, from another thread, with each that was written.
            waits: Called, from another thread, when checkpoints wait for the store, and with None when no longer.
            clock: In seconds.
        """
        self._spec, self._stored, self._told, self._waits, self._clock = spec, stored, told, waits, clock
        self._pool = ThreadPoolExecutor(1, "checkpoint") if stored is not None else None
        self._writing: Future[None] | None = None
        self._step, self._since = 0, clock()
        self._written: CheckpointInfo | None = None
        self._error: TrainerError | None = None
        self._failures = 0
        """Writes in a row."""
        self._failing: tuple[float, float] | None = None
        """Since when, by the clock and in Unix time."""
        self._retry_at: float | None = None
        self._give_up: float | None = None
        """When the last one is not waited for any longer."""

    def resumed(self, info: CheckpointInfo) -> None:
        """Count from a checkpoint that is there."""
        self._step, self._since, self._written = info.step, self._clock(), info
        self._told(info)

    @property
    def is_superseded(self) -> bool:
        """Whether this gang has lost the claim, as the last try to write has shown."""
        return self._error is not None and self._error.reason is Reason.SUPERSEDED

    def offer(self, step: int, take: Callable[[], TrainingState]) -> None:
        """Begin to write a checkpoint of a step, if one is due and the one before has been written."""
        is_free = self._pool is not None and (self._writing is None or self._writing.done())
        if not is_free:
            return
        now = self._clock()
        is_retried = self._retry_at is not None and now >= self._retry_at
        if is_retried or is_due(self._spec, step, self._step, now - self._since):
            self._begin(step, take)

    def finish(self, step: int, take: Callable[[], TrainingState]) -> None:
        """Begin to write the last step's, so that a gang that dies before it has published leaves nothing to train."""
        if self._pool is not None and (self._written is None or self._written.step != step):
            self._begin(step, take)

    def stop(self, step: int, take: Callable[[], TrainingState]) -> str:
        """Write a checkpoint of a step now, all ranks waiting for it as long as there is time; collective.

        Returns:
            What became of it, for people.

        Raises:
            TrainerError: `SUPERSEDED`.
        """
        said = self._save(step, take)
        dist.barrier()  # who ends earlier makes its launcher end the others
        if self.is_superseded:
            assert self._error is not None
            raise self._error
        return said

    @contextmanager
    def rescuing(self, step: Callable[[], int], take: Callable[[], TrainingState]) -> Iterator[None]:
        """Save the last finished step, if meanwhile a peer is lost, or a rank is told to stop outside of a step.

        What is trained changes at the end of a step alone, after its last collective: where one fails, all is whole.
        """
        try:
            yield
        except Exception as error:
            failure = explain(error)
            may_help = failure.reason in (Reason.LOST_PEER, Reason.INTERRUPTED) and self._pool is not None
            if not may_help or self._give_up is not None or not step():
                raise
            said = self._save(step(), take)
            log.info("ended after step %d, %s", step(), said)
            if failure is not error:
                raise
            raise TrainerError(failure.reason, f"{failure.message}, {said}") from error

    def settle(self) -> None:
        """Wait for what is being written."""
        if self._writing is not None:
            wait([self._writing])

    def close(self) -> None:
        """Wait for what is being written; nothing is from then on."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def abandon(self) -> None:
        """Wait for what is being written, but not longer than there is time to."""
        if self._pool is not None:
            left = STOP_SECONDS if self._give_up is None else self._give_up - self._clock()
            self._is_idle(max(0.0, left))
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _save(self, step: int, take: Callable[[], TrainingState]) -> str:
        """Write a checkpoint of a step and wait for it, as long as there is time; return what became of it."""
        if self._pool is None:
            return "rank 0 tells of its checkpoint"
        self._give_up = self._clock() + STOP_SECONDS
        if self._is_idle(STOP_SECONDS) and (self._written is None or self._written.step != step):
            self._begin(step, take)
            self._is_idle(max(0.0, self._give_up - self._clock()))
        if self._written is not None and self._written.step == step:
            return f"saved as {self._written.uri}"
        why = self._error.message if self._error else f"it took more than {STOP_SECONDS:.0f} s"
        last = f"the last one is {self._written.uri}" if self._written else "there is none yet"
        return f"no checkpoint of it could be written ({why}); {last}"

    def _is_idle(self, seconds: float) -> bool:
        """Wait so long for what is being written; tell whether it is."""
        return self._writing is None or not wait([self._writing], seconds).not_done

    def _begin(self, step: int, take: Callable[[], TrainingState]) -> None:
        assert self._pool is not None
        self._step, self._since, self._retry_at = step, self._clock(), None
        self._writing = self._pool.submit(self._write, take())

    def _write(self, state: TrainingState) -> None:
        assert self._stored is not None
        try:
            info = self._stored.add(state)
        except Exception as error:
            self._failed(state.step, explain(error))
            return
        if self._failing is not None:
            self._failures, self._failing = 0, None
            self._waits(None)
        self._written, self._error = info, None
        log.info("checkpoint of step %d: %s (%s)", info.step, info.uri, told_sizes(state))
        self._told(info)

    def _failed(self, step: int, error: TrainerError) -> None:
        """Tell of a checkpoint that could not be written, and set when the next one is tried."""
        self._error = error
        if self.is_superseded:
            return
        now = self._clock()
        self._failing = self._failing or (now, time.time())
        self._failures += 1
        seconds = pause(LASTING, error, self._failures, now - self._failing[0], random.random())
        self._retry_at = None if seconds is None else now + seconds
        if error.reason in _OF_THE_STORE:
            self._waits(WaitingInfo(what="Checkpoints", since=self._failing[1], message=error.message))
        log.warning("the checkpoint of step %d is not written: %s", step, error.message)


def is_due(spec: CheckpointSpec, step: int, last: int, seconds: float) -> bool:
    """Tell whether a step is to be saved: every N steps, and every T minutes; pure.

    Args:
        spec: `spec.checkpoint`.
        step: The last finished one.
        last: That was saved, or gone on from; 0: none.
        seconds: Since then.
    """
    if step <= last:
        return False
    by_steps = spec.every_steps is not None and step // spec.every_steps > last // spec.every_steps
    return by_steps or seconds >= 60 * spec.every_minutes
