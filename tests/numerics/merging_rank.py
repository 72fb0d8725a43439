"""One rank that merges random adapters into models of many architectures, and publishes what comes out.

Usage (by test_merging.py, with RANK and its like set): merging_rank.py FOLDER. Models come from `architectures`; each
gets an adapter in FOLDER/adapter-NUMBER, and a merged model in FOLDER/out-NUMBER-WRITERS/merged.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from architectures import ARCHITECTURES, CAUSAL, CLASSES, Architecture
from peft import LoraConfig, get_peft_model
from peftjob_api import JobIdentity
from peftjob_api.spec import StorageSpec
from peftjob_trainer import session
from peftjob_trainer.claim import Claim
from peftjob_trainer.handoff import Place, end_process
from peftjob_trainer.merging import Merge
from peftjob_trainer.publish import MERGED_FOLDER, publish
from peftjob_trainer.sharding import Base
from peftjob_trainer.storage import open_store

MERGED = (
    "llama", "llama, tied", "llama, in shards", "llama, in bf16", "llama, fp32 to bf16", "gpt2", "mixtral, in shards",
    "llama, without its head's prefix", "bert, without its head", "roberta",
)  # fmt: skip
NEW_HEADS = {CLASSES: ("score", "classifier")}


class Nothing:
    """Stands in for a tokenizer."""

    def save_pretrained(self, folder: Path) -> None:
        """Write none."""


def adapted(architecture: Architecture, folder: Path) -> tuple[Any, Base]:
    """Return a base without data, with an adapter of random numbers in it, the same on all ranks."""
    base = Base(folder, f"file://{folder}", StorageSpec(), getattr(torch, architecture.run), torch.device("cpu"), 7)
    model = base.skeleton(getattr(transformers, architecture.auto))
    heads = [name for name in NEW_HEADS.get(architecture.auto, ()) if hasattr(model, name)]
    base.prepare(model, heads)
    config = LoraConfig(
        r=3,
        lora_alpha=5,
        # peft takes an expert's matrices for linear modules too, and those are stacked: see the test of refusals.
        target_modules=["q_proj", "v_proj"] if "mixtral" in architecture.name else "all-linear",
        bias="lora_only" if architecture.name == "roberta" else "none",
        modules_to_save=heads or None,
        exclude_modules=heads or None,
        task_type="CAUSAL_LM" if architecture.auto == CAUSAL else "SEQ_CLS",
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(model, config)
        for parameter in model.parameters():
            if parameter.requires_grad:  # biases of the base too, which have no memory yet
                parameter.data = 0.1 * torch.randn(parameter.shape)
    return model, base


def merge(model: Any, base: Base, rank: int, writers: int, out: Path, meeting: Any) -> None:
    """Write a merged model with so many ranks."""
    made = Merge(rank, dist.get_world_size(), writers)
    made.prepare(model, base)
    store = open_store(f"file://{out}", StorageSpec())
    made.open(dist.PrefixStore(out.name, meeting), store)
    if rank:
        made.serve()
        return
    identity = JobIdentity(namespace="team", name="merged", uid="uid-1")
    local = out.with_name(f"local-{out.name}")
    local.mkdir()
    made.describe(local / MERGED_FOLDER, Nothing())
    publish(store, f"file://{out}", Claim.take(store, identity, 1, "g"), local, identity, made)
    made.finish()


LARGE = {"vocab_size": 16, "hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 2}
LARGE_ROWS = 65536
"""A tensor has 134 MB and a block that is computed at once 17 MB: what malloc keeps of these is little beside it."""


def measured(place: Place, folder: Path, meeting: Any) -> dict[str, int]:
    """Return what merging a model with large tensors took of a rank's memory: bytes at its peak, and before."""
    architecture = Architecture("large", CAUSAL, "llama", {}, stored="bfloat16", run="bfloat16")
    model, base = adapted(architecture, folder / "large")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: proc(5)
    before = resident("VmRSS")
    merge(model, base, place.rank, 1, folder / "out-large", meeting)
    return {"before": before, "peak": resident("VmHWM")}


def resident(field: str) -> int:
    """Return bytes of this process's memory, as the kernel counts them."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(field))
    return 1024 * int(line.split()[1])


def main(folder: Path) -> None:
    """Merge everything with all ranks, and one model with fewer."""
    session.quiet_libraries()
    place = Place.here(os.environ)
    meeting = session.connect(place, torch.device("cpu"))
    memory = measured(place, folder, meeting)  # first: what others need stays with the process
    if place.rank == 0:
        (folder / "memory.json").write_text(json.dumps(memory))
    for number, architecture in enumerate(ARCHITECTURES):
        if architecture.name not in MERGED:
            continue
        for writers in range(1 if architecture.name == "llama, in shards" else place.world, place.world + 1):
            model, base = adapted(architecture, folder / str(number))
            if place.rank == 0:
                model.save_pretrained(str(folder / f"adapter-{number}"), save_embedding_layers=False)
            merge(model, base, place.rank, writers, folder / f"out-{number}-{writers}", meeting)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process(0)
