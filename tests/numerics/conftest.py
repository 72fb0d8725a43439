"""Does all training runs of `cases.py` once: on one rank, on two ranks, and by HF Trainer; and local launches.

Importing the libraries takes longer than any of these runs, so each set of them shares its processes.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT / "tests/demo")]

import cases  # noqa: E402 (after the path)
import methods  # noqa: E402
from peftjob_cluster.children import free_ports  # noqa: E402

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("crds", "trainer", "tests/numerics")),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
Results = dict[str, dict[str, Any]]
PATIENCE = 400.0
"""Seconds after which ranks are taken to hang."""


def run_all(folder: Path, world: int, name: str = "cases", patience: float = PATIENCE) -> list[Results]:
    """Do all runs of a file with so many ranks; return what each rank wrote."""
    import torch

    run_ranks("harness.py", [str(folder), name], folder, world, patience)
    return [torch.load(folder / f"{name}-{world}-{rank}.pt") for rank in range(world)]


def run_ranks(script: str, arguments: list[str], folder: Path, world: int, patience: float = PATIENCE) -> None:
    """Run a script of this folder as so many ranks, for so many seconds at most; their logs go into a folder."""
    master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(HERE / script), *arguments]
    ranks = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
        environment = {**ENVIRONMENT, **master, **place}
        with (folder / f"world-{world}-rank-{rank}.log").open("wb") as log:
            ranks.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
    try:
        give_up = time.monotonic() + patience
        while any(process.poll() is None for process in ranks) and not any(process.poll() for process in ranks):
            assert time.monotonic() < give_up, "ranks hang"
            time.sleep(0.05)
        if any(process.poll() for process in ranks):
            time.sleep(2)  # the others may know the cause
        codes = [process.poll() for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    logs = [(folder / f"world-{world}-rank-{rank}.log").read_text()[-3000:] for rank in range(world)]
    free = shutil.disk_usage(folder).free / 1e9  # a rank that cannot write its log says nothing
    assert codes == [0] * world, "\n".join([*logs, f"exit codes {codes}; {folder} has {free:.1f} GB free"])


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models, data and the jobs of `cases.py`."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "cases.json").write_text(json.dumps(cases.write(folder)))
    (folder / "groups.json").write_text(json.dumps(cases.grouped(folder)))
    return folder


@pytest.fixture(scope="session")
def one(runs: Path) -> Results:
    """All runs on one rank."""
    return run_all(runs, 1)[0]


@pytest.fixture(scope="session")
def two(runs: Path) -> list[Results]:
    """All runs on two ranks, as each of them saw it."""
    return run_all(runs, 2)


@pytest.fixture(scope="session")
def four(runs: Path) -> list[Results]:
    """The runs of each shard group on two nodes of two ranks, as each rank saw them."""
    return run_all(runs, 4, "groups")


@pytest.fixture(scope="session")
def hf_losses(runs: Path, one: Results) -> dict[str, list[float]]:
    """The losses of HF Trainer, which starts from the adapters of the runs on one rank."""
    return answered(runs, "cases")


@pytest.fixture(scope="session")
def method_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models, data and the jobs of `methods.py`."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "methods.json").write_text(json.dumps(methods.write(folder)))
    return folder


@pytest.fixture(scope="session")
def adapted(method_runs: Path) -> list[Results]:
    """The runs of all methods on two ranks, as each of them saw it."""
    return run_all(method_runs, 2, "methods", PATIENCE + 20 * len(methods.PAIRS))


@pytest.fixture(scope="session")
def plain_peft(method_runs: Path, adapted: list[Results]) -> Results:
    """What HF Trainer and plain peft make of the same runs, and of the adapters that they published."""
    return answered(method_runs, "methods")


def answered(folder: Path, name: str) -> Any:
    """Return what `reference.py` has to say to a set of runs."""
    import torch

    command = [sys.executable, str(HERE / "reference.py"), str(folder), name]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / f"reference-{name}.pt")


class Launched:
    """A `python -m peftjob_trainer.launch job.yaml` in work, or ended."""

    def __init__(self, folder: Path, job: dict[str, Any], **environment: str) -> None:
        import yaml

        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.termination = folder / "termination.json"
        file, self._log = folder / "job.yaml", folder / "log"
        file.write_text(yaml.safe_dump(job))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "peftjob_trainer.launch", str(file)],
                # Work folders of launchers that a test kills go with the test's own.
                env={
                    **ENVIRONMENT,
                    "PEFTJOB_TERMINATION_PATH": str(self.termination),
                    "TMPDIR": str(folder),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait(self, timeout: float = 300) -> int:
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it if it has not; its ranks die with it."""
        self.process.kill()
        self.process.wait()

    def last_word(self) -> dict[str, Any]:
        """Return the termination message."""
        return json.loads(self.termination.read_text())

    def ranks(self) -> dict[int, int]:
        """Return rank -> process id of the launcher's ranks."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if parent != self.process.pid or b"peftjob_trainer.rank" not in (path / "cmdline").read_bytes():
                    continue
                environ = dict(e.partition(b"=")[::2] for e in (path / "environ").read_bytes().split(b"\0"))
                found[int(environ[b"RANK"])] = int(path.name)
            except (OSError, KeyError, ValueError):
                continue  # ended meanwhile, or not started yet
        return found


Launch = Callable[..., Launched]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Return a function that starts a launcher; what still runs at the end of the test is killed."""
    started: list[Launched] = []

    def start(folder: Path, job: dict[str, Any], **environment: str) -> Launched:
        started.append(Launched(folder, job, **environment))
        return started[-1]

    yield start
    for launched in started:
        launched.kill()
