"""One rank that does runs of a folder in several attempts, all of which are stopped but the last one.

Usage (by conftest.py, with RANK and its like set): resuming.py FOLDER NAME
NAME.json in the folder has name -> {job, stops}; NAME-WORLD-RANK.pt gets the results. Only where a stop comes from, and
that a process makes several attempts, is not as in a worker pod: all else is the real session, to the published file.
"""

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peftjob_api import PeftJob, Reason, RunConfig
from peftjob_api.constants import ENV_HANG_SECONDS
from peftjob_trainer import session, train
from peftjob_trainer.batches import Batching
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.handoff import Go, Place, end_process
from peftjob_trainer.history import History
from peftjob_trainer.progress import Progress
from torch.distributed import PrefixStore

OWN_UID = "uid-1"


class Died(BaseException):
    """All ranks are gone at once, in the middle of a step: nobody saves anything."""


class Watch:
    """What one run does, over all its attempts: which samples this rank computed in which step, and what came of it."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {"started after": [], "words": [], "samples": {}}
        self._step, self._chosen, self._is_training = 0, [0], False
        self._original = (train.global_batch, train.forward_backward, Batching.micro_batches, session.train)

    def __enter__(self) -> "Watch":
        choose, compute, deal, loop = self._original

        def chosen(examples: int, batch_size: int, seed: int, step: int) -> list[int]:
            self._step, self._chosen = step, choose(examples, batch_size, seed, step)
            self.results["samples"][step] = []  # of a step that is taken again, the last time counts
            return self._chosen

        def computed(*arguments: Any) -> torch.Tensor:
            self._is_training = True
            try:
                return compute(*arguments)
            finally:
                self._is_training = False

        def dealt(batching: Batching, *arguments: Any) -> Iterator[Any]:
            for own, tensors in deal(batching, *arguments):
                if self._is_training:
                    self.results["samples"][self._step] += [self._chosen[i] for i in own]
                yield own, tensors

        def trained(run: Any) -> History:
            self.results["started after"].append(run.start.step if run.start else 0)
            history = loop(run)
            self.results["losses"] = [step.loss for step in history.steps]
            self.results["norms"] = [step.grad_norm for step in history.steps]
            self.results["returns"] = [asdict(each) for each in history.returns]
            self.results["updates"] = int(run.sharded.state()["updates"].max())
            self.results["evaluations"] = [asdict(record) for record in history.evaluations]
            self.results["adapter"] = run.sharded.snapshot()
            return history

        train.global_batch, train.forward_backward, session.train = chosen, computed, trained
        Batching.micro_batches = dealt  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        train.global_batch, train.forward_backward, Batching.micro_batches, session.train = self._original  # type: ignore[method-assign]

    def stopping(self, stop: dict[str, Any] | None) -> Callable[[], bool]:
        """Return what tells a run whether it is to stop, which may be its end."""
        told = itertools.count()

        def interrupted() -> bool:
            asked = next(told)
            if stop is None or ("step" in stop and self._step < stop["step"]) or asked < stop.get("asked", 0):
                return False
            if stop["dies"]:
                raise Died
            return True

        return interrupted


def attempt(planned: dict[str, Any], place: Place, number: int, store: Any, watch: Watch, work: Path) -> str:
    """Make one attempt, and stop it as planned; return its last word."""
    work.mkdir(parents=True, exist_ok=True)  # of the node: its ranks share what the first one prepares
    job = PeftJob.model_validate(planned["job"])
    identity = job.identity.model_copy(update={"uid": OWN_UID})
    session.connect = lambda *_: PrefixStore(f"attempt {number}", store)
    session.on_sigterm = lambda: watch.stopping(planned["stop"])
    try:
        model = Path(job.spec.base_model.uri.removeprefix("file://"))
        go = Go(RunConfig.of(identity, job.spec), 1, f"gang {number}", work, model, None, False)
        session.run(go, place, Progress())
        return "done"
    except Died:
        return "died"
    except TrainerError as error:
        if error.reason is not Reason.INTERRUPTED:
            raise
        return error.message


def main(folder: Path, name: str) -> None:
    """Do all runs."""
    os.environ[ENV_HANG_SECONDS] = "0"  # who dies leaves its watchdog to this process, in which it would find a hang
    session.quiet_libraries()
    place = Place.here(os.environ)
    store = session.connect(place, torch.device("cpu"))
    results: dict[str, Any] = {}
    numbers, work = itertools.count(), folder / f"work-{name}"
    for run, planned in json.loads((folder / f"{name}.json").read_text()).items():
        with Watch() as watch:
            for stop in planned["stops"]:
                number = next(numbers)
                planned["stop"] = stop
                watch.results["words"].append(attempt(planned, place, number, store, watch, work / str(number)))
                dist.barrier()
        results[run] = watch.results
    torch.save(results, folder / f"{name}-{place.world}-{place.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    end_process(0)
