"""Programs that outlive the command that starts them: the cluster's own, each with a record of what it is.

Used by ``lifecycle`` and ``node``. A record is written by the program's own shell before it becomes the program, so
that an ``up`` killed at any moment leaves no process without one; it holds the start time, so that a recycled process
id is never taken for ours. As a second net every program carries the state folder in its environment (containerd hands
that on to its shims), and ``residue`` finds by it what no record names.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftjob_cluster.paths import Layout
from peftjob_cluster.shell import ClusterError, wait_for

MARKER = "PEFTJOB_CLUSTER_STATE"

# $1: record file, $2: control groups to enter. Fields 1 and 22 of the shell's stat are what exec keeps.
RECORD_AND_EXEC = """\
record=$1; groups=$2; shift 2
read -r stat </proc/$$/stat; echo "$stat" >"$record.new"; mv "$record.new" "$record.pid"
for group in $groups; do echo $$ >"$group/cgroup.procs" || exit 1; done
exec "$@"
"""


def marked(environment: Mapping[str, str], layout: Layout) -> dict[str, str]:
    """Return an environment by which ``residue`` knows a process, and those that it starts, as the cluster's."""
    return {**environment, MARKER: str(layout.root)}


def start_time(stat: str) -> tuple[int, int]:
    """Return pid and start time from a line of ``/proc/PID/stat``; the program's name may hold anything."""
    pid = int(stat.split(" ", 1)[0])
    return pid, int(stat.rpartition(")")[2].split()[19])


@dataclass(frozen=True)
class Daemons:
    """The long-lived programs of one cluster, by name."""

    layout: Layout

    @property
    def _records(self) -> Path:
        return self.layout.run / "processes"

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        host: str,
        env: Mapping[str, str] | None = None,
        mounts_of: int | None = None,
        groups: Sequence[Path] = (),
    ) -> None:
        """Start a program in the network namespace of ``host``, and remember how.

        ``mounts_of`` is a process whose mount namespace to share, ``groups`` are the control groups to enter.
        """
        self._records.mkdir(parents=True, exist_ok=True)
        self.layout.log.mkdir(parents=True, exist_ok=True)
        record = self._records / name
        command = [str(part) for part in argv]
        self._pid_file(name).unlink(missing_ok=True)
        record.with_suffix(".json").write_text(json.dumps({"argv": command, "host": host, "env": dict(env or {})}))
        clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        enter = ["nsenter", f"--net=/run/netns/{self.layout.namespace(host)}"]
        enter += [f"--mount=/proc/{mounts_of}/ns/mnt"] if mounts_of else []
        shell = ["sh", "-c", RECORD_AND_EXEC, "sh", str(record), " ".join(map(str, groups))]
        with self.log_file(name).open("ab") as log:
            subprocess.Popen(
                [*shell, *enter, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**marked(clean, self.layout), **(env or {}), "HOME": str(self.layout.run)},
                cwd="/",
                start_new_session=True,
            )

    def restart(self, name: str, *, mounts_of: int | None = None, groups: Sequence[Path] = ()) -> None:
        """Start a program again as it was."""
        how = json.loads((self._records / f"{name}.json").read_text())
        self.start(name, how["argv"], host=how["host"], env=how["env"], mounts_of=mounts_of, groups=groups)

    def names(self) -> list[str]:
        """Return the names of all programs that were started in this life of the cluster."""
        return sorted(path.stem for path in self._records.glob("*.json"))

    def pid(self, name: str) -> int | None:
        """Return the process id of a program that runs, and is the one that we started."""
        try:
            pid, started = start_time(self._pid_file(name).read_text())
            alive = start_time(Path(f"/proc/{pid}/stat").read_text()) == (pid, started)
        except (OSError, ValueError, IndexError):
            return None
        return pid if alive and not is_zombie(pid) else None

    def stop(self, name: str, sig: signal.Signals = signal.SIGTERM, patience: float = 5) -> None:
        """End a program; one that does not heed ``sig`` in time is killed."""
        end_process(self.pid(name), sig, patience)

    def wait(self, what: str, probe: Callable[[], object], limit: float) -> None:
        """Wait for ``probe`` to return something true, but give up as soon as a program has ended by itself."""

        def probe_living() -> object:
            for name in self.names():
                if self._pid_file(name).exists() and self.pid(name) is None:
                    raise Ended(f"{name} has ended; the end of {self.log_file(name)}:\n{self.tail(name)}")
            return probe()

        try:
            wait_for(what, probe_living, limit=limit)
        except Ended as ended:
            raise ClusterError(f"{what}: {ended}") from None

    def log_file(self, name: str) -> Path:
        """Return where a program's output goes."""
        return self.layout.log / f"{name}.log"

    def tail(self, name: str, lines: int = 5) -> str:
        """Return the last lines of a program's log."""
        last = self.log_file(name).read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(line[:300] for line in last)

    def _pid_file(self, name: str) -> Path:
        return self._records / f"{name}.pid"


class Ended(Exception):
    """A program ended while something was waited for; not a ClusterError, which would only mean not yet."""


def is_zombie(pid: int) -> bool:
    """Tell whether a process has ended and only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def end_process(pid: int | None, sig: signal.Signals = signal.SIGTERM, patience: float = 5) -> None:
    """Signal a process and wait until it is gone, through a handle that a recycled process id cannot deceive.

    One that does not heed ``sig`` in time is killed; without ``patience`` it is killed at once.
    """
    if pid is None:
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for attempt, seconds in ((sig, patience), (signal.SIGKILL, 5.0)):
            if seconds > 0:
                signal.pidfd_send_signal(handle, attempt)
                if select.select([handle], [], [], seconds)[0]:
                    return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
