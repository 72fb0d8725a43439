"""One rank that does all runs of a folder, one after the other, and writes what the tests compare.

Usage (by conftest.py, with RANK and its like set): harness.py FOLDER NAME
NAME.json in the folder has the jobs; NAME-WORLD-RANK.pt gets the results.
"""

import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from counting import count_collectives
from peftjob_api import PeftJob, RunConfig
from peftjob_trainer import session, train, writing
from peftjob_trainer.checkpoints.keeper import Checkpoints
from peftjob_trainer.handoff import Go, Place, end_process
from peftjob_trainer.methods import Method
from peftjob_trainer.processors import load_processor, pad_of
from peftjob_trainer.progress import Progress
from peftjob_trainer.sharding import Sharded, Topology, open_groups, shard_group
from peftjob_trainer.tasks import task_of
from safetensors.torch import load_file

KEEPS = "everything kept"
"""Ends the names of runs with room for the whole base."""
SPARING = "methods"
"""Name of the runs without room for more of the base than what computes."""
_ALL = 2**40
"""More bytes than any base here has."""


def recorded(sharded: Sharded) -> dict[str, dict[str, torch.Tensor]]:
    """Return a dictionary that gets the gradients of the first step, reduced and not yet clipped."""
    seen: dict[str, dict[str, torch.Tensor]] = {}
    clip = sharded.clip

    def recording_clip(max_norm: float) -> float:
        seen.setdefault("gradients", {name: g.clone() for name, g in sharded.gradients().items()})
        return clip(max_norm)

    sharded.clip = recording_clip  # type: ignore[method-assign]
    return seen


def groups_of(sharded: Sharded) -> dict[str, Any]:
    """Return among which ranks each parameter is partitioned; None: among none."""
    return {
        name: dist.get_process_group_ranks(p.ds_process_group) if hasattr(p, "ds_process_group") else None
        for name, p in sharded.model.named_parameters()
    }


def saved(sharded: Sharded, method: Method, folder: Path, calls: Counter[Any]) -> dict[str, Any]:
    """Write an adapter; return its tensors, and the collectives that this took."""
    before = Counter(calls)
    folder.mkdir(exist_ok=True)
    method.save(sharded.model, folder, "base", None)
    return {"tensors": load_file(folder / "adapter_model.safetensors"), "calls": calls - before}


def left_gathered(sharded: Sharded) -> list[str]:
    """Return which frozen parameters are not partitioned, or are partitioned and have all their data here."""
    return [
        name
        for name, p in sharded.model.named_parameters()
        if not p.requires_grad and (not hasattr(p, "ds_tensor") or p.numel())
    ]


def written(run: train.Run, calls: Counter[Any]) -> dict[str, Any]:
    """Let the model write, if the job asks for it; return the tokens, and what was gathered for them."""
    evaluation, steps = run.spec.training.evaluation, []
    if evaluation is None or evaluation.generate is None:
        return {}
    generate = run.sharded.model.generate

    def counting(**inputs: Any) -> Any:
        output = generate(**inputs)
        known = 1 if run.sharded.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        steps.append(output.shape[1] - known)
        return output

    before, gathered = Counter(calls), run.sharded.gathered_bytes()
    prompts = [run.task.prompt(sample)[0] for sample in run.splits.validation.examples]
    prompts = prompts[: evaluation.generate.max_samples]
    run.sharded.model.generate = counting
    ids = writing.write(
        run.sharded, run.task, run.device, run.batching.micro_batch, prompts, evaluation.generate.max_new_tokens
    )
    del run.sharded.model.generate
    longest = torch.tensor(steps)
    found = {"ids": ids, "calls": calls - before, "gathered": run.sharded.gathered_bytes() - gathered}
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    return {**found, "steps": longest.tolist()}


def references(run: train.Run) -> dict[int, list[float]]:
    """Return, of this rank's pairs of answers, the log-probabilities by the reference, as in the midst of training."""
    found: dict[int, list[float]] = {}
    if run.spec.task.type != "PreferenceOptimisation":
        return found
    run.sharded.model.train()
    for indices, batch in run.batching.micro_batches(run.splits.validation.examples):
        with torch.no_grad():
            _, reference = run.task.log_probabilities(run.sharded.model, batch)
        found |= dict(zip(indices, torch.stack(reference.chunk(2), 1).tolist(), strict=False))
    return found


def do(
    name: str, body: dict[str, Any], place: Place, folder: Path, calls: Counter[Any], spare: int = 0
) -> dict[str, Any]:
    """Do one run; return what is compared."""
    job = PeftJob.model_validate(body)
    spec = job.spec
    model = Path(spec.base_model.uri.removeprefix("file://"))
    go = Go(RunConfig.of(job.identity, spec), 1, "gang", folder, model, None, False)
    device = session.choose_device(spec, place)
    processor = load_processor(go.model, spec)
    spec, splits = session.load_data(spec, processor, go.model, go.work)
    assert spec.sharding != "Auto", "say which group is meant"
    topology = Topology(spec.workers.nodes, place.world // spec.workers.nodes)
    groups = open_groups(shard_group(spec.sharding, topology), topology)
    start = session.read_initial(go, splits)
    calls.clear()
    precision = session.choose_precision(spec, device)
    sharded, method = session.load_model(go, splits, processor, precision, device, groups, spare, start)
    loading = Counter(calls)
    plan, initial, seen = sharded.plan(), sharded.snapshot(), recorded(sharded)
    run = train.Run(
        spec,
        task_of(spec, pad_of(processor), splits.labels, processor),
        splits,
        sharded,
        method,
        device,
        Progress(),
        lambda: False,
        Checkpoints(spec.checkpoint),
        {},
    )
    calls.clear()
    history = train.train(run)
    training = Counter(calls)
    published = sharded.snapshot()
    again = train.evaluate_split(run, history, "validation").metrics if splits.validation else {}
    return {
        "losses": [step.loss for step in history.steps],
        "initial": initial,
        "gradients": seen["gradients"],
        "adapter": published,
        "evaluations": [asdict(record) for record in history.evaluations],
        "published": again,
        "written": written(run, calls),
        "references": references(run),
        "base": asdict(history.base_bytes) if history.base_bytes else {},
        "plan": plan.model_dump(),
        "whole": sharded.whole_bytes(),
        "groups": groups_of(sharded),
        "gathered": left_gathered(sharded),
        "loading": loading,
        "training": training,
        "saved": saved(sharded, method, folder / f"saved-{name}-{place.rank}", calls),
    }


def main(folder: Path, name: str) -> None:
    """Do all runs."""
    session.quiet_libraries()
    place = Place.here(os.environ)
    calls = count_collectives()
    session.connect(place, torch.device("cpu"))
    jobs = json.loads((folder / f"{name}.json").read_text())
    results = {}
    for run, body in jobs.items():
        spare = -_ALL if name == SPARING else _ALL if run.endswith(KEEPS) else 0
        results[run] = do(run, body, place, folder, calls, spare)
    torch.save(results, folder / f"{name}-{place.world}-{place.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    end_process(0)
