"""One rank that does all runs of a folder, one after the other, and writes what the tests compare.

Usage (by conftest.py, with RANK and its like set): harness.py FOLDER
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peftjob_api import PeftJob, RunConfig
from peftjob_trainer import session, train
from peftjob_trainer.data import load_splits
from peftjob_trainer.handoff import Go, Place, end_process
from peftjob_trainer.progress import Progress
from peftjob_trainer.sharding import Sharded, zero3
from peftjob_trainer.tasks import task_of

DEFAULTS = {
    "prefetch_bucket_size": 50_000_000,
    "max_reuse_distance": 1_000_000_000,
    "max_live_parameters": 1_000_000_000,
    "param_persistence_threshold": 100_000,
}


def recorded(sharded: Sharded) -> dict[str, dict[str, torch.Tensor]]:
    """Return a dictionary that gets the gradients of the first step, reduced and not yet clipped."""
    seen: dict[str, dict[str, torch.Tensor]] = {}
    clip = sharded.clip

    def recording_clip(max_norm: float) -> float:
        seen.setdefault("gradients", {name: g.clone() for name, g in sharded.gradients().items()})
        return clip(max_norm)

    sharded.clip = recording_clip  # type: ignore[method-assign]
    return seen


def do(name: str, body: dict[str, Any], place: Place, folder: Path) -> dict[str, Any]:
    """Do one run; return what is compared."""
    job = PeftJob.model_validate(body)
    spec = job.spec
    model = Path(spec.base_model.uri.removeprefix("file://"))
    go = Go(RunConfig.of(job.identity, spec), 1, "gang", folder, model, None, False)
    device = session.choose_device(spec, place)
    tokenizer = session.load_tokenizer(go.model)
    splits = load_splits(spec, tokenizer, spec.storage, go.work)
    sharded = session.load_model(go, splits, tokenizer, session.choose_precision(spec, device), device)
    plan, initial, seen = sharded.plan(), sharded.snapshot(), recorded(sharded)
    run = train.Run(
        spec, task_of(spec.task), splits, sharded, tokenizer.pad_token_id, device, Progress(), lambda: False
    )
    history = train.train(run)
    published = sharded.snapshot()
    again = train.evaluate_split(run, history, "validation").metrics if splits.validation else {}
    return {
        "losses": [step.loss for step in history.steps],
        "initial": initial,
        "gradients": seen["gradients"],
        "adapter": published,
        "evaluations": [asdict(record) for record in history.evaluations],
        "published": again,
        "base": asdict(history.base_bytes) if history.base_bytes else {},
        "plan": plan.model_dump(),
        "whole": sharded.whole_bytes(),
    }


def main(folder: Path) -> None:
    """Do all runs."""
    session.quiet_libraries()
    place = Place.here(os.environ)
    session.connect(place, torch.device("cpu"))
    offload = zero3.DeepSpeedZeRoOffload
    results = {}
    for name, body in json.loads((folder / "cases.json").read_text()).items():
        zero3.DeepSpeedZeRoOffload = offload  # type: ignore[misc]
        if name.endswith("DeepSpeed's defaults"):
            zero3.DeepSpeedZeRoOffload = lambda *args, **kw: offload(*args, **{**kw, **DEFAULTS})  # type: ignore
        results[name] = do(name, body, place, folder)
    torch.save(results, folder / f"world-{place.world}-rank-{place.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process(0)
