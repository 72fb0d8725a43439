"""The stack that users have today, on one rank: HF Trainer, DeepSpeed ZeRO-3 and peft, on the same job.

It starts from the same files, sees the same examples in the same order, and trains the same LoRA by the same settings.
Where `task["zero"]` is false it runs without DeepSpeed, as one does on a single accelerator.
"""

import math
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from kit.collectives import Collectives
from kit.marks import Marks
from kit.meeting import Meeting
from kit.process import forget_device_memory, interface_bytes, peak_memory, reset_peak_memory, resident_memory
from peft import LoraConfig, get_peft_model
from peftjob_api import PeftJob
from peftjob_api.spec import PeftJobSpec
from peftjob_trainer import session
from peftjob_trainer.data import load_splits
from peftjob_trainer.data.types import Example
from peftjob_trainer.handoff import Place
from peftjob_trainer.order import DEFAULT_MICRO_BATCH, global_batch
from peftjob_trainer.processors import load_tokenizer
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

ZERO_3 = {
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "bf16": {"enabled": "auto"},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}
"""As transformers' documentation gives it for ZeRO-3."""


class OurOrder(torch.utils.data.Sampler[int]):
    """Yields the examples in our loop's order."""

    def __init__(self, examples: int, batch: int, seed: int, steps: int) -> None:
        self._examples, self._batch, self._seed, self._steps = examples, batch, seed, steps

    def __len__(self) -> int:
        return self._batch * self._steps

    def __iter__(self) -> Iterator[int]:
        for step in range(1, self._steps + 1):
            yield from global_batch(self._examples, self._batch, self._seed, step)


class Ordered(Trainer):
    """Takes the examples in our order."""

    order: OurOrder

    def _get_train_sampler(self, *_: Any) -> OurOrder:
        return self.order


class Watching(TrainerCallback):
    """Notes when training began and each step ended, and what the interfaces had carried by then."""

    def __init__(self, collectives: Collectives, meeting: Meeting | None) -> None:
        self.marks = Marks(meeting)
        self._collectives = collectives

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """See `TrainerCallback`."""
        self._collectives.phase = "Training"
        self.marks.mark()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """See `TrainerCallback`."""
        self.marks.mark()


def run(task: dict[str, Any], place: Place, meeting: Meeting) -> Any:
    """Run `task["job"]`, as `ways.ours` runs one of its jobs; return the same figures. Or each of `task["jobs"]`."""
    session.quiet_libraries()
    collectives = Collectives(place.world // task["nodes"])
    collectives.install()
    if "jobs" in task:
        return [one(task, job, place, meeting, collectives) for job in task["jobs"]]
    return one(task, task["job"], place, meeting, collectives)


def one(
    task: dict[str, Any], job: dict[str, Any], place: Place, meeting: Meeting, collectives: Collectives
) -> dict[str, Any]:
    """Run one job."""
    spec = PeftJob.model_validate(job["body"]).spec
    folder = Path(task["folder"])
    zero = task.get("zero", True)
    collectives.phase = "Loading"
    device = session.choose_device(spec, place)
    forget_device_memory()
    if zero:
        session.connect(place, device)
    else:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # or accelerate would make a process group
            os.environ.pop(name, None)
    wires = interface_bytes()
    arguments = arguments_of(spec, folder, place.world, zero=zero)  # first: `from_pretrained` then partitions
    model = load(spec, arguments)
    tokenizer = load_tokenizer(Path(job["model"]))
    examples = load_splits(spec, tokenizer, spec.storage, folder).train.examples
    watching = Watching(collectives, meeting if job.get("counts_wires") else None)
    trainer = Ordered(
        model=model,
        args=arguments,
        train_dataset=[row(example) for example in examples],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        callbacks=[watching],
    )
    trainer.order = OurOrder(len(examples), spec.training.batch_size, spec.training.seed, arguments.max_steps)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    collectives.phase = "Saving"
    reset_peak_memory()
    resident = resident_memory()
    trainer.save_model(str(folder / "adapter"))
    return {
        "seconds": [b - a for a, b in pairwise(watching.marks.ends)],
        "losses": losses,
        "wires": [wires, *watching.marks.wires],
        "within": collectives.within,
        "across": collectives.across,
        "saving peak": peak_memory() - resident,
        "device peak": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }


def load(spec: PeftJobSpec, arguments: TrainingArguments) -> Any:
    """Return the base with LoRA in it."""
    lora = spec.method.settings
    folder = spec.base_model.uri.removeprefix("file://")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if arguments.bf16 else torch.float32)
    model.config.use_cache = False
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def arguments_of(spec: PeftJobSpec, folder: Path, world: int, *, zero: bool) -> TrainingArguments:
    """Return the job's settings in the library's words."""
    training = spec.training
    micro = training.micro_batch_size or min(DEFAULT_MICRO_BATCH, training.batch_size)
    assert training.max_steps is not None
    return TrainingArguments(
        output_dir=str(folder / "hf"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=training.batch_size // (micro * world),
        max_steps=training.max_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(training.warmup_ratio * training.max_steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        bf16=training.precision == "BF16",
        gradient_checkpointing=training.gradient_checkpointing,
        deepspeed=ZERO_3 if zero else None,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=not spec.workers.accelerators,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=bool(spec.workers.accelerators),
    )


def row(example: Example) -> dict[str, list[int]]:
    """Return an example as the library's collators take it."""
    assert isinstance(example.labels, tuple)
    ids = list(example.input_ids)
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": list(example.labels)}
