"""Ranks of a bench: they end together, and a failed one is told with its log."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests/bench"))

from kit import launch
from kit.launch import Gang


def start(*codes: str) -> list["subprocess.Popen[bytes]"]:
    """Start one process for each line of Python."""
    return [subprocess.Popen([sys.executable, "-c", code]) for code in codes]


def test_the_first_that_fails_is_told_at_once() -> None:
    processes = start("import time; time.sleep(60)", "import sys; sys.exit(3)")
    started = time.monotonic()
    assert launch.wait(processes, 50) == 1
    assert time.monotonic() - started < 20
    processes[0].kill()
    processes[0].wait()


def test_one_that_hangs_is_told_at_the_deadline() -> None:
    processes = start("import time; time.sleep(60)", "pass")
    assert launch.wait(processes, 2) == 0
    processes[0].kill()
    processes[0].wait()


def test_all_well() -> None:
    assert launch.wait(start("pass", "pass"), 20) is None


def test_a_failure_ends_the_bench_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)rank \d failed.*no_such_way"):
        launch.run_ranks("no_such_way", {}, Gang(), tmp_path)


def test_ranks_of_a_node_are_neighbours() -> None:
    gang = Gang(2, 2, (("a",), ("b",)), "veth0", "10.0.0.1")
    places = [(e["RANK"], e["LOCAL_RANK"], e["WORLD_SIZE"]) for e in (gang.environment(r, 1) for r in range(4))]
    assert places == [("0", "0", "4"), ("1", "1", "4"), ("2", "0", "4"), ("3", "1", "4")]
