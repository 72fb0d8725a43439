"""Runs plans: submits a job, strikes at its moments, waits for its end, and looks at what is left."""

import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Protocol

from peftjob_api import Reason

from .jobs import Jobs, Object, Worker, status_text
from .judging import End, Trained, judge, trained
from .plans import Moment, Plan, Strike
from .store import Trap

PATIENCE_SECONDS: Final = 600.0
"""For a job to end, after its last strike is over."""
_ENDING_SECONDS: Final = 120.0
_ENDS_WITHIN_SECONDS: Final = 6.0
"""A gang that still trains so long after a strike was not ended by it."""
_LOOK_SECONDS: Final = 0.05
_WATCH_SECONDS: Final = 0.5
_STEP: Final = re.compile(r"step (\d+)/\d+ ")
_RESUMED: Final = re.compile(r"going on after step (\d+),")


class Ground(Protocol):
    """Where plans are carried out: the lab, or the two-node cluster."""

    jobs: Jobs

    def running(self, name: str) -> Sequence[Worker]:
        """Return the workers of a job that have not ended."""
        ...

    def workers(self, name: str) -> Sequence[Worker]:
        """Return all workers that a job ever had."""
        ...

    def set_trap(self, name: str, trap: Trap | None) -> None:
        """Let a strike wait for a write of a job; None: none does any more."""
        ...

    def found(self, plan: Plan, job: Object | None) -> End:
        """Return what there is of a job that is over, then delete it."""
        ...


class MissedError(Exception):
    """A strike found nothing to hit: its target had ended a moment before."""


class Hand(Protocol):
    """Carries strikes out there."""

    def strike(self, plan: Plan, strike: Strike) -> Callable[[], None] | None:
        """Hit a job; return what ends the strike, if it lasts.

        Raises:
            MissedError: What it is to hit is not there.
        """
        ...


@dataclass
class Hit:
    """A strike that was carried out."""

    strike: Strike
    at: float
    """Seconds since the job began."""
    step: int
    """The last step that the gang had made."""


@dataclass(frozen=True)
class Recovery:
    """A strike that ended a gang, and what it took to train again."""

    strike: Strike
    noticed: float
    """Seconds until the status said that the gang does not run."""
    gone: float
    """Until no process of the gang was there any more."""
    seconds: float
    """Until the first new step of the next gang."""
    lost_steps: int
    """That it had to make again."""


@dataclass
class Outcome:
    """What became of a plan."""

    plan: Plan
    wrong: list[str]
    seconds: float = 0
    hits: list[Hit] = field(default_factory=list)
    end: End | None = None
    lost_steps: list[int] = field(default_factory=list)
    """For each gang after the first one: the steps that it had to make again."""
    recoveries: list[Recovery] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    """Seconds from the first strike until the status said that the output is waited for, each time that it did."""
    logs: str = ""

    @property
    def reasons(self) -> list[str]:
        """Return the reasons that a user saw of what went wrong, or was asked for."""
        told = self.end.events if self.end else ()
        return [reason for kind, reason, _ in told if kind == "Warning" or reason == Reason.SUSPENDED]

    @property
    def state(self) -> str:
        """The job's last state."""
        return str(((self.end and self.end.job) or {}).get("status", {}).get("state", "?"))


class Driver:
    """Of one plan; `run` does it all."""

    def __init__(self, ground: Ground, hand: Hand, plan: Plan) -> None:
        self._ground, self._hand, self._plan = ground, hand, plan
        self._began = time.monotonic()
        self._hits: list[Hit] = []
        self._ends: list[threading.Thread] = []
        self._first_steps: dict[str, float] = {}
        """When each gang had made its first step, by the uid of its rank 0's pod."""
        self._gone: dict[str, float] = {}
        """When each worker was first seen to run no more, by its pod's uid."""
        self._not_running: list[float] = []
        """When the status began to say something else than Running."""
        self._waiting: list[float] = []
        """When it began to say that the output is waited for."""
        self._is_over = threading.Event()

    def run(self, undisturbed: Trained | None) -> Outcome:
        """Carry the plan out; without a measure only what an undisturbed run leaves is looked at."""
        self._began = time.monotonic()
        self._ground.jobs.submit(self._plan)
        watching = threading.Thread(target=self._watch, daemon=True)
        watching.start()
        for strike in self._plan.strikes:
            if not self._wait_for(strike):
                break
        job = self._wait_for_end()
        seconds = time.monotonic() - self._began
        self._is_over.set()
        for thread in (*self._ends, watching):
            thread.join()
        self._wait_for_workers()
        end = self._ground.found(self._plan, job)
        measure = undisturbed or (trained(end.files) if _succeeded(job) else None)
        wrong = judge(self._plan, end, measure) if measure is not None else ["the undisturbed run failed"]
        lost, recoveries = self._lost_steps(), self._recoveries()
        logs = "\n".join([status_text(job), *self._logs()]) if wrong else ""
        first = self._began + self._hits[0].at if self._hits else 0.0
        waited = [moment - first for moment in self._waiting if self._hits and moment > first]
        return Outcome(self._plan, wrong, seconds, self._hits, end, lost, recoveries, waited, logs)

    def _wait_for(self, strike: Strike) -> bool:
        """Wait for a strike's moment and hit; False: the job is over."""
        if strike.moment is Moment.WRITE:
            assert strike.write is not None
            trap = Trap(strike.write, strike.at, threading.Event(), threading.Event())
            self._ground.set_trap(self._plan.name, trap)
            try:
                if not self._until(trap.sprung.is_set):
                    return False
                self._hit(strike)
            finally:
                trap.struck.set()
                self._ground.set_trap(self._plan.name, None)
            return True
        if strike.moment is Moment.START:
            known = {worker.uid for worker in self._workers()} if self._hits else set()
            found = self._until(
                lambda: (
                    any(
                        w.uid not in known and time.monotonic() - w.began >= strike.at / 10
                        for w in self._ground.running(self._plan.name)
                    )
                    or (bool(known) and self._is_training() and self._since_last_hit() > _ENDS_WITHIN_SECONDS)
                )
            )
        else:
            found = self._until(lambda: self._step() >= strike.at * self._ground.jobs.stretch and self._is_training())
        if found:
            self._hit(strike)
        return found

    def _hit(self, strike: Strike) -> None:
        hit = Hit(strike, time.monotonic() - self._began, self._step())
        try:
            end = self._hand.strike(self._plan, strike)
        except MissedError:
            return
        self._hits.append(hit)
        if end is not None:
            thread = threading.Thread(target=self._end_later, args=(strike.seconds, end))
            thread.start()
            self._ends.append(thread)

    def _until(self, holds: Any) -> bool:
        """Wait until something holds; False: the job is over, or nothing happens any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        looked = time.monotonic()
        while not holds():
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                if _is_over(self._ground.jobs.job(self._plan.name)) or looked > deadline:
                    return False
            time.sleep(_LOOK_SECONDS)
        return True

    def _wait_for_end(self) -> dict[str, Any] | None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            job = self._ground.jobs.job(self._plan.name)
            if _is_over(job):
                return job
            time.sleep(1)
        return None

    def _wait_for_workers(self) -> None:
        """Give workers of a job that is over, and lost ones that came back, the time to end."""
        deadline = time.monotonic() + _ENDING_SECONDS
        while self._ground.running(self._plan.name) and time.monotonic() < deadline:
            time.sleep(0.3)

    def _end_later(self, seconds: float, end: Callable[[], None]) -> None:
        """End a strike when its time is over, or the job is."""
        self._is_over.wait(seconds)
        end()

    def _watch(self) -> None:
        """Note when gangs make their first steps, when they are gone, and when they wait for their output."""
        was_running = was_waiting = False
        while not self._is_over.wait(_WATCH_SECONDS):
            status = (self._ground.jobs.job(self._plan.name) or {}).get("status", {})
            is_running = status.get("state") in ("Running", "Publishing")
            if was_running and not is_running:
                self._not_running.append(time.monotonic())
            was_running = is_running
            running = {worker.uid for worker in self._ground.running(self._plan.name)}
            for worker in self._workers():
                if worker.uid not in running:
                    self._gone.setdefault(worker.uid, time.monotonic())
            is_waiting = any(c["reason"] == Reason.WAITING_FOR_STORAGE for c in status.get("conditions", []))
            if is_waiting and not was_waiting:
                self._waiting.append(time.monotonic())
            was_waiting = is_waiting
            for worker in self._firsts():
                if worker.uid not in self._first_steps and _last_step(worker.log()):
                    self._first_steps[worker.uid] = time.monotonic()

    def _recoveries(self) -> list[Recovery]:
        """Return what followed the strikes that ended a gang, where nothing else struck before the next one trained."""
        found = []
        for number, hit in enumerate(self._hits):
            at = self._began + hit.at
            until = self._began + self._hits[number + 1].at if number + 1 < len(self._hits) else float("inf")
            before = [w for w in self._firsts() if w.began < at and w.uid in self._first_steps]
            after = [w for w in self._firsts() if w.began > at and w.uid in self._first_steps]
            noticed = [moment - at for moment in self._not_running if moment > at]
            if not (before and noticed and after and self._first_steps[after[0].uid] < until):
                continue
            lost = _last_step(before[-1].log()) - _went_on_after(after[0].log())
            gone = max(self._gone.get(w.uid, math.inf) for w in self._workers() if w.began < at) - at
            seconds = self._first_steps[after[0].uid] - at
            found.append(Recovery(hit.strike, noticed[0], max(gone, 0.0), seconds, lost))
        return found

    def _workers(self) -> list[Worker]:
        return list(self._ground.workers(self._plan.name))

    def _firsts(self) -> list[Worker]:
        """Return the workers with rank 0, in order of their start."""
        return sorted((w for w in self._workers() if w.index == 0), key=lambda w: w.began)

    def _step(self) -> int:
        """Return the last step that the last gang has made."""
        firsts = self._firsts()
        return _last_step(firsts[-1].log()) if firsts else 0

    def _since_last_hit(self) -> float:
        return time.monotonic() - self._began - self._hits[-1].at

    def _is_training(self) -> bool:
        firsts = self._firsts()
        return bool(firsts) and firsts[-1].code is None and _last_step(firsts[-1].log()) > 0

    def _lost_steps(self) -> list[int]:
        """Return for each gang after the first one that trained how many steps it made again."""
        logs = [log for log in (worker.log() for worker in self._firsts()) if _last_step(log)]
        return [_last_step(before) - _went_on_after(after) for before, after in pairwise(logs)]

    def _logs(self) -> list[str]:
        return [f"--- {w.name} on {w.where}: {w.code}\n{w.log()[-3000:]}" for w in self._workers()]


def run_undisturbed(ground: Ground, hand: Hand, plan: Plan) -> Trained:
    """Return what a job without faults comes to.

    Raises:
        AssertionError: Even that goes wrong.
    """
    outcome = Driver(ground, hand, plan).run(None)
    assert not outcome.wrong, f"{outcome.wrong}\n{outcome.logs}"
    assert outcome.end is not None
    return trained(outcome.end.files)


def _last_step(log: str) -> int:
    return max((int(step) for step in _STEP.findall(log)), default=0)


def _went_on_after(log: str) -> int:
    found = _RESUMED.search(log)
    return int(found[1]) if found else 0


def _is_over(job: dict[str, Any] | None) -> bool:
    return job is None or job.get("status", {}).get("state") in ("Succeeded", "Failed")


def _succeeded(job: dict[str, Any] | None) -> bool:
    return bool(job) and (job or {}).get("status", {}).get("state") == "Succeeded"
