"""Inside a forked process: what a container would be to our launcher, and the launcher itself. Called by `zygote`.

The process gets the network of its node, a hosts file with the gang's names, a small temporary file system of its own
and the pod's environment; then the real launcher runs, whose ranks are forked instead of executed anew. Steps are
stretched by sleeping, so that faults can hit between and within them; that changes no number.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO

from peftjob_api.constants import ENV_TERMINATION_PATH
from peftjob_trainer import launch, rank, ranks, train
from peftjob_trainer.handoff import end_process

_NEWNS, _NEWNET = 0x00020000, 0x40000000
_PRIVATE, _BIND, _RECURSIVE = 1 << 18, 4096, 16384
TEMPORARY = "tmp"
"""Name of the folder of temporary files in a pod's folder."""
_libc = ctypes.CDLL(None, use_errno=True)


def run(order: Mapping[str, Any]) -> None:
    """Become the launcher of a pod; never returns.

    Args:
        order: `network` (pid of a process in the node's network), `folder` (the pod's), `hosts` (file), `environment`,
            `disk` (bytes of the temporary file system), `step_seconds`.
    """
    os.setsid()
    folder = Path(order["folder"])
    _isolate(order, folder / TEMPORARY)
    _write_to(folder / "log")
    os.environ.clear()
    os.environ.update(order["environment"])
    os.environ.update({name: str(folder / TEMPORARY) for name in ("TMPDIR", "HOME")})
    replace(launch, WORK_DIR=str(folder / TEMPORARY))
    os.environ[ENV_TERMINATION_PATH] = str(folder / "termination-log")
    _stretch(order["step_seconds"])
    replace(ranks, subprocess=SimpleNamespace(Popen=ForkedRank, PIPE=None))
    end_process(launch.main([]))


class ForkedRank:
    """A rank process as `subprocess.Popen` would have started it; the part of its interface that `ranks` uses."""

    def __init__(self, command: Sequence[str], stdin: None, env: Mapping[str, str]) -> None:
        """Fork it; it reads what is written to `stdin`."""
        reads, writes = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            os.close(reads)
            self.stdin: BinaryIO = os.fdopen(writes, "wb")
            return
        try:
            os.close(writes)
            os.dup2(reads, 0)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.environ.clear()
            os.environ.update(env)
            _forget_logging()
            end_process(rank.rank_main())
        finally:
            os._exit(70)

    def poll(self) -> int | None:
        """Return the exit code, if it has ended."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        """Wait for the exit code."""
        code = self._wait(0)
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _isolate(order: Mapping[str, Any], temporary: Path) -> None:
    """Enter the node's network, and mount what the pod sees otherwise than the machine; all goes with the process."""
    with open(f"/proc/{order['network']}/ns/net", "rb") as network:
        _check(_libc.setns(network.fileno(), _NEWNET), "setns")
    _check(_libc.unshare(_NEWNS), "unshare")
    _mount(None, "/", None, _PRIVATE | _RECURSIVE)
    _mount(order["hosts"], "/etc/hosts", None, _BIND)
    temporary.mkdir()
    _mount("pod", str(temporary), "tmpfs", 0, f"size={order['disk']}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [word.encode() if word is not None else None for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode() if data else None), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _write_to(path: Path) -> None:
    """Send standard output and error to a file, as a container's runtime does; standard input is at its end."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _forget_logging() -> None:
    """Let the rank set its log up as a fresh process would."""
    import logging

    for handler in logging.getLogger().handlers[:]:
        logging.getLogger().removeHandler(handler)


def _stretch(seconds: float) -> None:
    """Let each step take at least so much longer."""
    take_step = train.take_step

    def stretched(*args: Any) -> bool:
        time.sleep(seconds)
        return take_step(*args)

    replace(train, take_step=stretched)


def replace(module: ModuleType, **attributes: Any) -> None:
    """Give attributes of a module other values, in this process."""
    for name, value in attributes.items():
        assert hasattr(module, name), name
        setattr(module, name, value)
