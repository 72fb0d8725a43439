"""Loads a sharded base on one rank, by ours or as the library does: `from_pretrained` under an `HfDeepSpeedConfig`."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from kit.meeting import Meeting
from kit.process import bytes_read, peak_memory
from peftjob_api.spec import StorageSpec
from peftjob_trainer import session
from peftjob_trainer.handoff import Place
from peftjob_trainer.sharding import Base, zero3
from transformers import AutoModelForCausalLM
from transformers.integrations import HfDeepSpeedConfig


def run(task: dict[str, Any], place: Place, meeting: Meeting) -> dict[str, Any]:
    """Load `task["model"]`, a folder, in bf16 in the way `task["way"]`: `ours` or `library`."""
    folder = Path(task["model"])
    session.quiet_libraries()
    session.connect(place, torch.device("cpu"))
    before = peak_memory()
    dist.barrier()
    began, started, cpu = bytes_read(), time.monotonic(), time.process_time()
    read = None
    if task["way"] == "ours":
        base = Base(folder, f"file://{folder}", StorageSpec(), torch.bfloat16, torch.device("cpu"), seed=1)
        model = base.skeleton(AutoModelForCausalLM)
        base.prepare(model)
        base.fill(model.requires_grad_(False))
        read = base.source.bytes_read
    else:
        held = HfDeepSpeedConfig(zero3.zero_config(torch.bfloat16))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        del held
    cpu = time.process_time() - cpu
    dist.barrier()
    seconds, peak = time.monotonic() - started, peak_memory()
    return {
        "seconds": seconds, "cpu": cpu, "before": before, "peak": peak, "read": read, "rchar": bytes_read() - began,
        "shares": sum(getattr(p, "ds_tensor", p).detach().double().abs().sum().item() for p in model.parameters()),
    }  # fmt: skip
