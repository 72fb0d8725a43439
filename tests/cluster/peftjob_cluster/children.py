"""Programs that live no longer than this Python process: what tests start on loopback.

Used by ``control_plane`` and ``s3``. Each child asks the kernel for SIGKILL on its parent's death, so a killed pytest
leaves nothing behind either.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from peftjob_cluster.paths import Layout
from peftjob_cluster.shell import ClusterError, wait_for

_PORTS: Final = range(12_000, 30_000)
"""Below those that the kernel hands out to connections, any of which may take one before its program does."""


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that were free a moment ago, drawn at random so that two tests hardly draw the same."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            ports += [port] if port not in ports else []
    return ports


def binaries(*names: str) -> Path:
    """Return the folder of the Go-built programs, after making sure that these are in it."""
    folder = Layout.default().bin
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise ClusterError(
            f"{', '.join(missing)} not in {folder}; build once with: "
            "PYTHONPATH=tests/cluster python3 -m peftjob_cluster tools --only apiserver"
        )
    return folder


class Children:
    """The children of one test fixture, by name."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []

    def start(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
        """Start a program in the background, in a session of its own; returns its process id."""
        if name in self._running:
            raise ClusterError(f"{name} runs already")
        self.logs.mkdir(parents=True, exist_ok=True)
        clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        with (self.logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*self._leash, *(str(part) for part in argv)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**clean, **(env or {})},
                cwd=self.logs,
                start_new_session=True,
            )
        return self._running[name].pid

    def pid(self, name: str) -> int:
        """Return the process id of a running child."""
        return self._running[name].pid

    def is_alive(self, name: str) -> bool:
        """Tell whether a child has not ended by itself."""
        return self._running[name].poll() is None

    def stop(self, name: str, sig: signal.Signals = signal.SIGTERM, patience: float = 10) -> None:
        """End one child and wait for it; one that does not heed ``sig`` in time is killed."""
        child = self._running.pop(name)
        child.send_signal(sig)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def stop_all(self) -> None:
        """End every child, the last started first; their data is thrown away, so there is nothing to wait for."""
        for child in self._running.values():
            child.kill()
        for name in reversed(list(self._running)):
            self.stop(name, signal.SIGKILL)

    def wait(self, what: str, probe: Callable[[], object], limit: float) -> None:
        """Wait for ``probe`` to return something true, but give up as soon as a child has ended."""

        def probe_living() -> object:
            for name, child in self._running.items():
                if child.poll() is not None:
                    raise Ended(name, f"{name} ended with {child.returncode}:\n{self.tail(name)}")
            return probe()

        try:
            wait_for(what, probe_living, limit=limit)
        except Ended as ended:
            raise ClusterError(f"{what}: {ended}") from None

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a child's log."""
        return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])


class Ended(Exception):
    """A child ended while something was waited for; not a ClusterError, which would only mean not yet."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
