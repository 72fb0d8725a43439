"""Running a command and waiting for something: the two things every other module does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class ClusterError(RuntimeError):
    """Something a person has to do or know; the command line prints it without a traceback."""


def say(text: str) -> None:
    """Tell the person at the terminal what is going on; standard output is left to results."""
    print(text, file=sys.stderr, flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Run a command to its end and return its standard output; a failure shows its error output."""
    command = [str(part) for part in argv]
    try:
        done = subprocess.run(
            command, input=stdin, env=env, cwd=cwd, timeout=timeout, text=True, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(command)}: no end after {timeout} s") from error
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def succeeds(argv: Sequence[str | Path], timeout: float = 30) -> bool:
    """Tell whether a command ends well."""
    try:
        run(argv, timeout=timeout)
    except ClusterError:
        return False
    return True


def wait_for(what: str, probe: Callable[[], object], *, limit: float, every: float = 0.1) -> None:
    """Call ``probe`` until it returns something true; its ClusterError or OSError counts as not yet."""
    end = time.monotonic() + limit
    last: Exception | None = None
    while True:
        try:
            if probe():
                return
        except (ClusterError, OSError) as error:
            last = error
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not after {limit:.0f} s" + (f" ({last})" if last else ""))
        time.sleep(every)
