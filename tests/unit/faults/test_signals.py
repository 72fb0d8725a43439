"""Which of a worker's processes a strike hits, in the lab as on the cluster."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.carry_out import send_signals
from faults.plans import Fault, Moment, Strike
from peftjob_testkit.waiting import wait_for


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A launcher and two ranks, as far as signals go."""
    started = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def killed(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Return which processes were killed."""
    for process in processes:
        process.send_signal(signal.SIGTERM)  # those that live end by this one
        process.send_signal(signal.SIGCONT)
    return [number for number, process in enumerate(processes) if process.wait(30) == -signal.SIGKILL]


@pytest.mark.parametrize(
    ("fault", "target", "want"),
    [
        (Fault.KILL_RANK, 0, [1]),
        (Fault.KILL_RANK, 2, [2]),
        (Fault.KILL_RANK, 5, [1]),
        (Fault.KILL_LAUNCHER, 2, [0]),
        (Fault.KILL_POD, 0, [0, 1, 2]),
        (Fault.PAUSE_RANK, 2, []),
    ],
)
def test_who_is_killed(processes: list[subprocess.Popen[bytes]], fault: Fault, target: int, want: list[int]) -> None:
    launcher, *ranks = [process.pid for process in processes]
    send_signals(launcher, ranks, Strike(fault, Moment.STEP, 1, target=target))
    for number in want:
        assert processes[number].wait(30) == -signal.SIGKILL
    assert killed(processes) == want


def test_a_rank_stands_still_until_the_end_of_its_strike(processes: list[subprocess.Popen[bytes]]) -> None:
    launcher, *ranks = [process.pid for process in processes]

    def states() -> str:
        return "".join(Path(f"/proc/{p.pid}/stat").read_text().rpartition(") ")[2][0] for p in processes)

    end = send_signals(launcher, ranks, Strike(Fault.PAUSE_RANK, Moment.STEP, 1, target=2))
    assert end is not None
    wait_for("the rank to stand still", lambda: states()[2] == "T", 30, 0.01)
    assert "T" not in states()[:2]
    end()
    wait_for("the rank to go on", lambda: states()[2] != "T", 30, 0.01)


def test_before_its_ranks_start_a_launcher_is_hit_in_their_place(processes: list[subprocess.Popen[bytes]]) -> None:
    send_signals(processes[0].pid, [], Strike(Fault.KILL_RANK, Moment.START, 1, target=2))
    assert processes[0].wait(30) == -signal.SIGKILL
    assert killed(processes) == [0]
