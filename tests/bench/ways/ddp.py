"""Plain PyTorch data parallelism on one rank: a loop around `DistributedDataParallel`, on the same job.

It is what `Replicate` is held against: the model whole on each rank, only trained gradients exchanged.
"""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from kit.meeting import Meeting
from peftjob_api import PeftJob
from peftjob_trainer import session
from peftjob_trainer.data import load_splits
from peftjob_trainer.handoff import Place
from peftjob_trainer.order import global_batch
from peftjob_trainer.processors import load_tokenizer
from torch.nn.parallel import DistributedDataParallel
from transformers import DataCollatorForSeq2Seq
from ways.library import arguments_of, load, row


def run(task: dict[str, Any], place: Place, meeting: Meeting) -> dict[str, Any]:
    """Run `task["job"]`, one micro batch a step; return losses and seconds of each step."""
    spec = PeftJob.model_validate(task["job"]["body"]).spec
    training, folder = spec.training, Path(task["folder"])
    session.quiet_libraries()
    session.connect(place, torch.device("cpu"))
    model = load(spec, arguments_of(spec, folder, place.world, zero=False))
    tokenizer = load_tokenizer(Path(task["job"]["model"]))
    examples = load_splits(spec, tokenizer, spec.storage, folder).train.examples
    collate = DataCollatorForSeq2Seq(tokenizer, padding=True)
    parallel = DistributedDataParallel(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=training.learning_rate, weight_decay=training.weight_decay)
    parallel.train()
    ends, losses = [time.monotonic()], []
    assert training.max_steps is not None
    for step in range(1, training.max_steps + 1):
        batch = global_batch(len(examples), training.batch_size, training.seed, step)
        own = batch[place.rank :: place.world]
        loss = parallel(**collate([row(examples[index]) for index in own])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, training.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        ends.append(time.monotonic())
    return {"seconds": [b - a for a, b in pairwise(ends)], "losses": losses}
