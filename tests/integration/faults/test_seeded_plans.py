"""A few seeded plans of faults in the lab; `make test-faults` runs hundreds, and the two-node cluster's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SEEDS = ("90", "274", "275", "337")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make networks and mounts of its own")
def test_whatever_is_killed_the_job_ends_the_same(tmp_path: Path) -> None:
    """In a process of its own, for it enters a network of its own."""
    folders = [str(ROOT / folder) for folder in ("crds", "operator", "trainer", "tests", "tests/cluster")]
    done = subprocess.run(
        [sys.executable, "-m", "faults", "--at-once", "4", "--logs", str(tmp_path), "--only", *SEEDS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        timeout=580,
    )
    logs = "\n".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}\n{logs}"
    assert done.stdout.splitlines()[-1] == "bars met: 5 of 5"
