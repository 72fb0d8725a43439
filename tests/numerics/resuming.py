"""One rank that does runs of a folder in several attempts, each of which ends by SIGTERM but the last one.

Usage (by conftest.py, with RANK and its like set): resuming.py FOLDER NAME
NAME.json in the folder has name -> {job, stops}; NAME-WORLD-RANK.pt gets the results. Only where the signal comes
from, and that a process makes several attempts, is not as in a worker pod: all else is the real session, to the
published file.
"""

import itertools
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peftjob_api import PeftJob, Reason, RunConfig
from peftjob_trainer import session
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.handoff import Go, Place, end_process
from peftjob_trainer.history import History
from peftjob_trainer.progress import Progress
from torch.distributed import PrefixStore

OWN_UID = "uid-1"


def attempt(
    body: dict[str, Any], place: Place, number: int, stop: int | None, store: Any, seen: dict[str, Any], folder: Path
) -> str:
    """Make one attempt, told to stop when it has asked so often whether it is; return its last word."""
    work = folder / str(number)  # of the node: its ranks share what the first one prepares
    work.mkdir(parents=True, exist_ok=True)
    job = PeftJob.model_validate(body)
    identity = job.identity.model_copy(update={"uid": OWN_UID})
    told, train = itertools.count(), session.train

    def watched(run: Any) -> History:
        seen["started after"].append(run.start.step if run.start else 0)
        history = train(run)
        seen["losses"] = [step.loss for step in history.steps]
        seen["norms"] = [step.grad_norm for step in history.steps]
        seen["evaluations"] = [asdict(record) for record in history.evaluations]
        seen["adapter"] = run.sharded.snapshot()
        return history

    session.connect = lambda *_: PrefixStore(f"attempt {number}", store)
    session.on_sigterm = lambda: lambda: next(told) == stop
    session.train = watched
    try:
        model = Path(job.spec.base_model.uri.removeprefix("file://"))
        go = Go(RunConfig.of(identity, job.spec), 1, f"gang {number}", work, model, None, False)
        session.run(go, place, Progress())
        return "done"
    except TrainerError as error:
        if error.reason is not Reason.INTERRUPTED:
            raise
        return error.message
    finally:
        session.train = train


def main(folder: Path, name: str) -> None:
    """Do all runs."""
    session.quiet_libraries()
    place = Place.here(os.environ)
    store = session.connect(place, torch.device("cpu"))
    results: dict[str, Any] = {}
    numbers, work = itertools.count(), folder / f"work-{name}"
    for run, planned in json.loads((folder / f"{name}.json").read_text()).items():
        seen: dict[str, Any] = {"started after": []}
        words = [attempt(planned["job"], place, next(numbers), stop, store, seen, work) for stop in planned["stops"]]
        dist.barrier()
        results[run] = {**seen, "words": words}
    torch.save(results, folder / f"{name}-{place.world}-{place.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    end_process(0)
