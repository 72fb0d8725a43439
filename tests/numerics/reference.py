"""The same runs by transformers' Trainer and peft on one process: the independent answer to our loop.

Usage (by conftest.py): reference.py FOLDER. It starts from the same adapter as our run did, and sees the same samples
in the same order; loss, accumulation, clipping, schedule and optimiser are the library's own.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cases
import torch
from peft import LoraConfig, get_peft_model
from peftjob_api import PeftJob
from peftjob_trainer.data import load_splits
from peftjob_trainer.data.types import Example
from peftjob_trainer.order import global_batch
from peftjob_trainer.session import load_tokenizer, quiet_libraries
from peftjob_trainer.tasks import task_of
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)

MODELS: dict[str, tuple[Any, str]] = {
    "CausalLM": (AutoModelForCausalLM, "CAUSAL_LM"),
    "Seq2SeqLM": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
    "SequenceClassification": (AutoModelForSequenceClassification, "SEQ_CLS"),
    "TokenClassification": (AutoModelForTokenClassification, "TOKEN_CLS"),
}
"""Task -> what has it, and peft's name of it."""


class OurOrder(torch.utils.data.Sampler[int]):
    """Yields each epoch in our loop's order."""

    def __init__(self, examples: int, batch: int, seed: int) -> None:
        self._examples, self._batch, self._seed, self._epoch = examples, batch, seed, 0

    def __len__(self) -> int:
        return self._examples

    def __iter__(self) -> Iterator[int]:
        steps = -(-self._examples // self._batch)
        first = self._epoch * steps + 1
        self._epoch += 1
        for step in range(first, first + steps):
            yield from global_batch(self._examples, self._batch, self._seed, step)


def mean_over_batch(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Return the losses over all that Trainer counts of the step, as it asks it of losses that know accumulation."""
    logits, functional = outputs.logits, torch.nn.functional
    if labels.is_floating_point():
        total = functional.mse_loss(logits[:, 0], labels, reduction="sum")
    elif labels.shape == logits.shape:
        total = functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum")
    else:
        total = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
    return total / num_items_in_batch


class Reference(Trainer):
    """Keeps exact losses (the log's are rounded)."""

    losses: dict[int, float]
    order: OurOrder

    def _get_train_sampler(self, *_: Any) -> OurOrder:
        return self.order

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        step = self.state.global_step + 1
        self.losses[step] = self.losses.get(step, 0.0) + float(loss)
        return loss


def reference(body: dict[str, Any], initial: dict[str, torch.Tensor], folder: Path) -> list[float]:
    """Return the losses of the steps."""
    spec = PeftJob.model_validate(body).spec
    training, lora = spec.training, spec.method.settings
    base = Path(spec.base_model.uri.removeprefix("file://"))
    tokenizer = load_tokenizer(base)
    splits = load_splits(spec, tokenizer, spec.storage, folder)
    examples, task = splits.train.examples, task_of(spec, tokenizer.pad_token_id, splits.labels)
    auto, task_type = MODELS[spec.task.type]
    is_classifier = "Classification" in spec.task.type
    model = auto.from_pretrained(base, **({"num_labels": len(splits.labels or "1")} if is_classifier else {}))
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type=task_type,
        exclude_modules=["classifier"] if is_classifier else None,
    )
    model = get_peft_model(model, config)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert own.keys() == initial.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(initial[name])
    arguments = TrainingArguments(
        output_dir=str(folder / "hf"),
        per_device_train_batch_size=training.micro_batch_size or 8,
        gradient_accumulation_steps=training.batch_size // (training.micro_batch_size or 8),
        max_steps=training.max_steps or -1,
        learning_rate=training.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(training.warmup_ratio * (training.max_steps or 0)),
        weight_decay=0.0,
        max_grad_norm=training.max_grad_norm,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )

    def collate(rows: list[Example]) -> dict[str, torch.Tensor]:
        batch = task.collate(rows)
        if spec.task.type != "Seq2SeqLM":
            return batch
        labels = batch["labels"][:, 1:]  # ours have a place for the start token
        return {**batch, "labels": labels, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels)}

    trainer = Reference(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collate,
        compute_loss_func=None if spec.task.type == "CausalLM" else mean_over_batch,
    )
    trainer.losses, trainer.order = {}, OurOrder(len(examples), training.batch_size, training.seed)
    trainer.train()
    return list(trainer.losses.values())


def main(folder: Path) -> None:
    """Do the runs that are compared."""
    quiet_libraries()
    jobs = json.loads((folder / "cases.json").read_text())
    ours = torch.load(folder / "cases-1-0.pt")
    results = {name: reference(jobs[name], ours[name]["initial"], folder) for name in cases.COMPARED}
    (folder / "reference.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
