"""One rank of a bench, started by `kit.launch`: rank.py WAY TASK RESULT."""

import importlib
import json
import os
import sys
from pathlib import Path

from kit.meeting import Meeting
from peftjob_trainer.handoff import Place, die_with_parent, end_process


def main(way: str, file: Path, result: Path) -> None:
    """Do what the task says, in the way of a module of `ways/`; write what was measured."""
    die_with_parent()
    task, place = json.loads(file.read_text()), Place.here(os.environ)
    meeting = Meeting(file.parent, place.rank, place.world)
    found = importlib.import_module(f"ways.{way}").run(task, place, meeting)
    result.write_text(json.dumps(found))
    meeting.meet()  # rank 0 holds what the others may still be asking


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    end_process(0)
