"""What the commands beside the launcher share: they tell of whatever is wrong by reason and fix, and end by its code.

Used by `plan` and `predict`.
"""

import argparse
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from peftjob_api import ExitCode, Reason

from .exits import TrainerError
from .failures import explain


class Parser(argparse.ArgumentParser):
    """Tells of wrong arguments as of everything else that is wrong with a job."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the process."""
        raise TrainerError(Reason.INVALID_CONFIG, message)


def exit_code_of(run: Callable[[], None]) -> int:
    """Run a command; return its exit code, after its cause on standard error if it failed."""
    try:
        run()
    except Exception as error:
        failure = explain(error)
        if failure is not error:
            traceback.print_exc()
        for line in failure.message.splitlines():
            print(f"{failure.reason}: {line}", file=sys.stderr)
        return int(failure.code)
    return int(ExitCode.DONE)
