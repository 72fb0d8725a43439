"""Ends an attempt in which nothing moves any more, and names the rank that lags. Started by `session` on every rank.

A rank that dies closes its connections, which its peers notice at once. One that is stopped, that starves or that waits
for ever keeps them open, and a collective would wait ten minutes for it. So each rank tells every second how far its
main thread has come, in a key of the store that rank 0 holds for all; rank 0 judges by them, the others look after
rank 0. Time is counted in what the judge itself has read: one that was stopped or starved finds nobody else guilty.
"""

import faulthandler
import json
import logging
import math
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from peftjob_api import Reason
from peftjob_api.constants import ENV_HANG_SECONDS
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from .exits import TrainerError

log = logging.getLogger(__name__)

HANG_SECONDS: Final = 60.0
"""Without progress in a step, at least, before the attempt is ended."""
_PACES: Final = 20
"""Steps that the median is of."""
_KNOWN: Final = 3
"""Steps until their pace is known: the first ones compile, fill caches and measure."""
_TIMES_MEDIAN: Final = 10
_UNKNOWN_PACE: Final = 8
"""Times the least patience, where no pace is known; by default before collectives time out, which names nobody."""
_SILENT_READS: Final = 15
"""Without a new sign of life. A thread gives it, not the work: so a quarter of the least patience is much."""
_FIRST_READS: Final = 4 * _SILENT_READS
"""Without a first sign: between the rendezvous and it a slow node has something to do."""
_LOST_SECONDS: Final = 5.0
"""For the main thread to notice by itself that rank 0 is gone."""
_PREFIX: Final = "peftjob/watchdog"
_VERDICT: Final = "verdict"


@dataclass
class Pulse:
    """How far the main thread has come; kept by `progress`, on every rank by the same calls in the same order."""

    phase: str = "Starting"
    step: int = 0
    """The last finished one."""
    beats: int = 0
    at: float = field(default_factory=time.monotonic)
    """When the last beat was, in seconds."""
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=_PACES))
    """Seconds of the last steps."""

    def beat(self) -> None:
        """Note that something was done: a phase entered, a micro batch begun, a step finished."""
        self.beats, self.at = self.beats + 1, time.monotonic()


def patience(phase: str, paces: list[float], least: float) -> float | None:
    """Return the seconds that may pass between two beats; None: any. Pure.

    Args:
        phase: As `progress` names it. Loading and publishing wait for storage, which has time-outs of its own.
        paces: Seconds of the last steps.
        least: In a step whose pace is known.
    """
    if phase == "Training" and len(paces) >= _KNOWN:
        return max(least, _TIMES_MEDIAN * statistics.median(paces))
    return _UNKNOWN_PACE * least if phase in ("Training", "Evaluating") else None


@dataclass(frozen=True)
class Sign:
    """A rank's sign of life."""

    number: int
    """Counts up."""
    host: str
    """Of the pod: its name and index."""
    place: str
    """What its main thread does, for people."""
    beats: int
    waits: float | None = None
    """Seconds since the last beat, if its patience is over."""
    left: bool = False
    """Whether it needs its peers no more."""


_NO_SIGN: Final = Sign(0, "a node not known yet", "at its start", 0)
"""Of a rank that has met the others, and gave none yet."""


class Judge:
    """Tells from signs of life, read one time after the other, which rank lags; pure but for what it has read."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}
        """Number of each rank's last sign, and how often it was read."""

    def see(self, signs: Mapping[int, Sign]) -> str | None:
        """Take what was read of some ranks; return what is wrong, if anything is."""
        present = {rank: sign for rank, sign in signs.items() if not sign.left}
        for rank, sign in present.items():
            number, reads = self._seen.get(rank, (sign.number, -1))
            self._seen[rank] = (sign.number, reads + 1 if number == sign.number else 0)
        if silent := [rank for rank, sign in present.items() if self._seen[rank][1] >= _reads(sign.number)]:
            where = f"{_named(silent, present)} {present[silent[0]].place}"
            return f"no sign of life from {where}: the process or its node is stopped or starved"
        waits = max((sign.waits for sign in present.values() if sign.waits is not None), default=None)
        if waits is None:
            return None
        least = min(sign.beats for sign in present.values())
        behind = [rank for rank, sign in present.items() if sign.beats == least]
        if len(behind) < len(present):
            return (
                f"{_named(behind, present)} lags {present[behind[0]].place}, the others have waited for {waits:.0f} s"
            )
        return f"no rank got on for {waits:.0f} s {present[behind[0]].place}, and none lags: look at the network"


def _reads(last: int) -> int:
    """Return how often the last sign of life may be read again, or that there was none."""
    return _SILENT_READS if last else _FIRST_READS


def _named(ranks: list[int], signs: Mapping[int, Sign]) -> str:
    shown = ", ".join(f"{rank} (on {signs[rank].host})" for rank in ranks[:4])
    more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more}"


def hang_seconds(environment: Mapping[str, str]) -> float:
    """Return how long a step may make no progress, at least; 0: for ever.

    Raises:
        TrainerError: `INVALID_CONFIG`.
    """
    text = environment.get(ENV_HANG_SECONDS, "")
    try:
        seconds = float(text or HANG_SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise TrainerError(
            Reason.INVALID_CONFIG, f"{ENV_HANG_SECONDS} is {text!r}: set it to a number of seconds, or 0"
        )
    return seconds


class Watchdog:
    """Of one rank; begins when it is made, once the ranks have met, on all of them."""

    def __init__(
        self,
        rank: int,
        world: int,
        store: Any,
        pulse: Pulse,
        end: Callable[[TrainerError], None],
        least: float = HANG_SECONDS,
    ) -> None:
        """Begin, unless there is nobody to wait for, or the patience is 0.

        Args:
            rank: Of this process.
            world: Number of ranks.
            store: Where all ranks have met, held by rank 0.
            pulse: Of the main thread.
            end: Leaves a last word and ends this process at once, whatever the main thread waits for.
            least: Seconds of patience with a step.
        """
        self._rank, self._pulse, self._end, self._least = rank, pulse, end, least
        self._period = least / 4 / _SILENT_READS
        # A connection of its own: one call at a time goes over it, and the main thread's may wait for minutes.
        self._store = PrefixStore(_PREFIX, store).clone()
        self._read = [str(rank) for rank in (range(world) if rank == 0 else range(1))]
        self._judge, self._host = Judge(), socket.gethostname()
        self._number = self._answers = 0
        self._verdict, self._is_lost = "", False
        self._stopped = threading.Event()
        if world > 1 and least > 0:
            for work in (self._ask, self._watch):
                threading.Thread(target=work, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """End: this rank needs its peers no more, or says itself why it fails."""
        self._stopped.set()

    def _ask(self) -> None:
        """Tell and read, again and again. If rank 0 is stopped this waits for ever, which `_watch` sees."""
        try:
            self._tell()
            if self._rank == 0:
                self._store.set(_VERDICT, "")
                # A key that is not there is waited for: a rank that was stopped before its first sign would hold us up.
                for rank in self._read:
                    self._store.compare_set(rank, "", json.dumps(asdict(_NO_SIGN)))
            while not self._stopped.wait(self._period):
                self._tell()
                *signs, said = self._store.multi_get([*self._read, _VERDICT])
                seen = {int(rank): Sign(**json.loads(sign)) for rank, sign in zip(self._read, signs, strict=True)}
                found = said.decode() or self._judge.see(seen) or ""
                if found and self._rank == 0:
                    self._store.set(_VERDICT, found)
                self._verdict, self._answers = self._verdict or found, self._answers + 1
            self._tell(left=True)
        except RuntimeError:  # what all of torch's errors of stores and connections are
            self._is_lost = True

    def _tell(self, *, left: bool = False) -> None:
        pulse, self._number = self._pulse, self._number + 1
        waited, limit = time.monotonic() - pulse.at, patience(pulse.phase, list(pulse.paces), self._least)
        place = f"in step {pulse.step + 1}" if pulse.phase == "Training" else f"while {pulse.phase.lower()}"
        waits = waited if limit is not None and waited > limit else None
        sign = Sign(self._number, self._host, place, pulse.beats, waits, left)
        self._store.set(str(self._rank), json.dumps(asdict(sign)))

    def _watch(self) -> None:
        """Look after `_ask`, and end this process when it has found something, or gets no answer."""
        answers = unanswered = 0
        while not self._stopped.wait(self._period):
            unanswered = 0 if self._answers > answers else unanswered + 1
            answers = self._answers
            if not self._verdict and self._rank and unanswered >= _reads(answers):
                self._verdict = "rank 0 answers no more: its process or its node is stopped or starved"
            if self._is_lost and not self._verdict:
                if not self._stopped.wait(_LOST_SECONDS):
                    self._end(TrainerError(Reason.LOST_PEER, "lost the connection to rank 0, which tells the cause"))
                return
            if self._verdict:
                self._conclude()
                return

    def _conclude(self) -> None:
        log.error("hang: %s; what this rank does:", self._verdict)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if self._rank == 0:
            time.sleep(2 * self._period)  # until the others have read why: they lose the store with this process
        if not self._stopped.is_set():
            text = f"{self._verdict}; the logs of all ranks have the stacks of their threads"
            self._end(TrainerError(Reason.HANG, text))
