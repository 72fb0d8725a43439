"""Brings a base to one device, by ours or by the library, and tells how fast that device takes bytes at all."""

import time
from pathlib import Path
from typing import Any

import torch
from kit.meeting import Meeting
from peftjob_api.spec import StorageSpec
from peftjob_trainer import session
from peftjob_trainer.handoff import Place
from peftjob_trainer.sharding import Base, Topology, open_groups, shard_group
from transformers import AutoModelForCausalLM

COPY_BYTES, COPIES = 2**30, 5
ONE = Topology(1, 1)


def run(task: dict[str, Any], place: Place, meeting: Meeting) -> dict[str, Any]:
    """Load `task["model"]`, a folder, in bf16 in the way `task["way"]` (`ours` or `library`) onto `task["device"]`."""
    folder, device = Path(task["model"]), torch.device(task["device"], 0)  # NCCL wants the number
    session.quiet_libraries()
    session.connect(place, device)
    rate = copy_rate(device)
    started = prepared = time.monotonic()
    if task["way"] == "ours":
        base = Base(folder, f"file://{folder}", StorageSpec(), torch.bfloat16, device, seed=1)
        model = base.skeleton(AutoModelForCausalLM)
        base.prepare(model)
        prepared = time.monotonic()
        base.fill(model.requires_grad_(False), open_groups(shard_group("Replicate", ONE), ONE))
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map=device)
    finish(device)
    ended = time.monotonic()
    return {"seconds": ended - started, "fill": ended - prepared, "copy rate": rate}


def copy_rate(device: torch.device) -> float:
    """Return bytes per second of copies from pinned memory to the device: the best of a few."""
    pinned = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda").fill_(1)
    there = torch.empty_like(pinned, device=device)
    seconds = []
    for _ in range(COPIES):
        finish(device)
        started = time.monotonic()
        there.copy_(pinned, non_blocking=True)
        finish(device)
        seconds.append(time.monotonic() - started)
    return COPY_BYTES / min(seconds)


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
