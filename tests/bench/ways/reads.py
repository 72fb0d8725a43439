"""Loads bases on one rank, partitioned over all, and tells what it read of each."""

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from kit.collectives import Collectives
from kit.meeting import Meeting
from kit.process import bytes_read
from kit.servers import counted
from peftjob_api.spec import StorageSpec
from peftjob_trainer import session
from peftjob_trainer.handoff import Place
from peftjob_trainer.sharding import Base
from ways.ours import FellBack


def run(task: dict[str, Any], place: Place, meeting: Meeting) -> list[dict[str, Any]]:
    """Load each of `task["bases"]`: `folder`, `uri`, `storage`, `auto` (class of transformers)."""
    session.quiet_libraries()
    session.connect(place, torch.device("cpu"))
    collectives = Collectives(place.world // task["nodes"])
    collectives.install()
    return [one(base, collectives) for base in task["bases"]]


def one(asked: dict[str, Any], collectives: Collectives) -> dict[str, Any]:
    """Load one base."""
    collectives.forget()
    fell_back = FellBack()
    logger = logging.getLogger("peftjob_trainer")
    logger.addHandler(fell_back)
    with counted(asked["storage"]) as (storage, proxy):
        spec = StorageSpec.model_validate(storage or {})
        base = Base(Path(asked["folder"]), asked["uri"], spec, torch.bfloat16, torch.device("cpu"), seed=1)
        model = base.skeleton(getattr(transformers, asked["auto"]))
        began = bytes_read()
        base.prepare(model)
        base.fill(model.requires_grad_(False))
        read = bytes_read() - began
    logger.removeHandler(fell_back)
    return {
        "name": asked["name"],
        "read": read,
        "served": proxy.bytes_sent if proxy else None,
        "collectives": collectives.total("Starting"),
        "fell back": fell_back.lines,
    }
