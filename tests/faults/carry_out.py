"""Carries strikes out in the lab: each returns what ends it, or None where it ends by itself."""

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar

from peftjob_cluster.control_plane import API_SERVER
from peftjob_cluster.kube import ApiError

from .drive import MissedError
from .jobs import Jobs, Worker
from .kubelet import LabWorker
from .lab import START_SECONDS, Lab
from .plans import Fault, Plan, Strike
from .pod import TEMPORARY
from .processes import send

End = Callable[[], None]
T = TypeVar("T")


class LabHand:
    """Strikes at jobs of a lab; what many jobs share is struck by one at a time, and ends when the last one ends."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._lock = Lock()
        self._operator = Lock()
        self._paused = 0
        # The kernel ends what a thread started when that thread ends; this one stays.
        self._starter = ThreadPoolExecutor(1)

    def strike(self, plan: Plan, strike: Strike) -> End | None:
        """Hit a job; see `Hand`."""
        match strike.fault:
            case Fault.SUSPEND:
                return suspend(self._lab.jobs, plan)
            case Fault.S3_AWAY | Fault.S3_SLOW | Fault.S3_FAILING:
                what = {Fault.S3_AWAY: "away", Fault.S3_SLOW: "slow", Fault.S3_FAILING: "failing"}[strike.fault]
                self._lab.proxy.change(what, 1)
                return lambda: self._lab.proxy.change(what, -1)
            case Fault.KILL_OPERATOR:
                return self._kill_operator()
            case Fault.PAUSE_API:
                return self._pause_api()
            case Fault.DELETE_POD | Fault.DRAIN:
                take_away(self._lab.jobs, plan, strike)
                return None
        return self._hit(chosen(self._lab.running(plan.name), strike), strike)

    def _hit(self, worker: LabWorker, strike: Strike) -> End | None:
        """Strike at a worker that runs."""
        launcher, *ranks = processes_of(worker)
        match strike.fault:
            case Fault.KILL_RANK | Fault.KILL_LAUNCHER | Fault.KILL_POD | Fault.PAUSE_RANK:
                return send_signals(launcher, ranks, strike)
            case Fault.DISK_FULL:
                return _fill(launcher, worker.folder / TEMPORARY)
            case Fault.CUT_NETWORK:
                return self._cut(worker)
            case Fault.NODE_DIES | Fault.NODE_VANISHES:
                return self._lose(worker, dies=strike.fault is Fault.NODE_DIES)
        return None

    def _cut(self, worker: LabWorker) -> End:
        worker.machine.plug(connected=False)
        return lambda: worker.machine.plug(connected=True)

    def _lose(self, worker: LabWorker, *, dies: bool) -> End:
        """Let a machine's kubelet and network go; its processes die with it, or are frozen and thaw when it is back."""
        machine = worker.machine
        machine.answers = False
        machine.plug(connected=False)
        worker.signal(signal.SIGKILL if dies else signal.SIGSTOP)

        def come_back() -> None:
            worker.signal(signal.SIGCONT)
            machine.plug(connected=True)
            time.sleep(1)  # what thawed may write to the store before its kubelet is there
            machine.answers = True

        return come_back

    def _kill_operator(self) -> End:
        if not self._operator.acquire(blocking=False):
            raise MissedError("it is dead already")
        self._lab.operator.kill()

        def start() -> None:
            try:
                self._starter.submit(self._lab.operator.start, START_SECONDS).result()
            finally:
                self._operator.release()

        return start

    def _pause_api(self) -> End:
        with self._lock:
            self._paused += 1
            self._lab.plane.send(API_SERVER, signal.SIGSTOP)

        def go_on() -> None:
            with self._lock:
                self._paused -= 1
                if not self._paused:
                    self._lab.plane.send(API_SERVER, signal.SIGCONT)

        return go_on


def suspend(jobs: Jobs, plan: Plan) -> End:
    """Suspend a job; its end resumes it."""
    jobs.patch(plan.name, {"suspend": True})
    return lambda: jobs.patch(plan.name, {"suspend": False})


def take_away(jobs: Jobs, plan: Plan, strike: Strike) -> None:
    """Delete or drain one of a job's pods."""
    pods = [p for p in jobs.pods(plan.name) if p["status"].get("phase") in ("Pending", "Running")]
    name = chosen(pods, strike)["metadata"]["name"]
    try:
        if strike.fault is Fault.DRAIN:
            jobs.evict(name)
        else:
            jobs.delete_pod(name)
    except ApiError as error:
        raise MissedError(f"{name} went meanwhile") from error


def chosen(targets: Sequence[T], strike: Strike) -> T:
    """Return the one that a strike hits.

    Raises:
        MissedError: There is none.
    """
    if not targets:
        raise MissedError("nothing of the job runs")
    return targets[strike.target % len(targets)]


def processes_of(worker: Worker) -> list[int]:
    """Return a worker's processes, the launcher first.

    Raises:
        MissedError: It has ended.
    """
    found = worker.processes()
    if not found:
        raise MissedError(f"{worker.name} has ended")
    return found


def send_signals(launcher: int, ranks: Sequence[int], strike: Strike) -> End | None:
    """Kill a worker's processes, or stop one; ranks that have not started yet are their launcher."""
    rank = ranks[strike.target // 2 % len(ranks)] if ranks else launcher
    match strike.fault:
        case Fault.KILL_RANK:
            send(rank, signal.SIGKILL)
        case Fault.KILL_LAUNCHER:
            send(launcher, signal.SIGKILL)
        case Fault.KILL_POD:
            for pid in (launcher, *ranks):
                send(pid, signal.SIGKILL)
        case Fault.PAUSE_RANK:
            send(rank, signal.SIGSTOP)
            return lambda: send(rank, signal.SIGCONT)
    return None


def _fill(launcher: int, folder: Path) -> End:
    """Fill a pod's temporary files to the last byte, as it sees them."""
    path = Path(f"/proc/{launcher}/root{folder}/filler")
    try:
        with path.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(2**20))
    except OSError as error:
        raise MissedError("it ended meanwhile") from error

    def clear() -> None:
        with suppress(OSError):
            path.unlink()

    return clear
