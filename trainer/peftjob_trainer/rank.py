"""One training process (`python -m peftjob_trainer.rank`), started by `launch` for each device.

The shell around `session`: it ends with its launcher, waits for the inputs, and turns whatever ends the session into
an exit code, one line for the launcher, and a traceback in the log.
"""

import logging
import os
import signal
import sys
import traceback

from peftjob_api import ExitCode, Reason, TerminationMessage

from .failures import explain
from .handoff import Go, Place, die_with_parent, end_process, log_to_stdout, write_failure, write_outcome


def rank_main() -> int:
    """Run one rank to its end; return the exit code."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the launcher gets it too, and decides
    place = Place.here(os.environ)
    log_to_stdout(f"rank {place.rank}", logging.INFO if place.rank == 0 else logging.WARNING)
    imported: Exception | None = None
    try:
        from . import session  # takes seconds: meanwhile the launcher fetches
    except Exception as error:
        imported = error
    line = sys.stdin.buffer.readline()
    if not line:
        return int(ExitCode.INTERRUPTED)  # the launcher is gone
    go = Go.from_line(line)
    progress = None
    try:
        if imported is not None:
            raise imported
        progress = session.make_progress(go, place)
        adapter = session.run(go, place, progress)
    except Exception as error:
        failure = explain(error)
        if failure is not error:
            traceback.print_exc()
        write_failure(go.work, place.rank, failure, progress.last if progress else None)
        return int(failure.code)
    if adapter is not None:
        outcome = TerminationMessage(
            reason=Reason.ADAPTER_PUBLISHED,
            message=f"the adapter lies at {adapter.uri}",
            exit_code=ExitCode.DONE,
            rank=place.rank,
            adapter=adapter,
            status=progress.last,
        )
        write_outcome(go.work, place.rank, outcome)
    return 0


if __name__ == "__main__":
    end_process(rank_main())
