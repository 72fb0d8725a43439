"""The same runs by transformers' Trainer and peft on one process: the independent answer to our loop.

Usage (by conftest.py): reference.py FOLDER NAME. A run starts from the same adapter as ours did, and sees the same
samples in the same order; loss, accumulation, clipping, schedule and optimiser are the library's own. For the runs of
`methods` it also loads what they published, as any user of peft would, and evaluates it.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cases
import methods
import torch
from peft import PeftModel, get_peft_model
from peftjob_api import PeftJob
from peftjob_bottleneck import load
from peftjob_trainer.data.types import Example
from peftjob_trainer.methods import Method, method_of
from peftjob_trainer.methods.own import OwnMethod
from peftjob_trainer.order import global_batch
from peftjob_trainer.planning.paper import Paper
from peftjob_trainer.processors import load_processor, pad_of
from peftjob_trainer.session import load_data, quiet_libraries
from peftjob_trainer.tasks import Task, task_of
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

AUTO_CLASSES: dict[str, Any] = {
    "CausalLM": AutoModelForCausalLM,
    "Seq2SeqLM": AutoModelForSeq2SeqLM,
    "SequenceClassification": AutoModelForSequenceClassification,
    "TokenClassification": AutoModelForTokenClassification,
    "ImageClassification": AutoModelForImageClassification,
}


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
    """Keeps exact losses (the log's are rounded), and the gradients of the first step."""

    losses: dict[int, float]
    gradients: dict[str, torch.Tensor]
    order: OurOrder

    def _get_train_sampler(self, *_: Any) -> OurOrder:
        return self.order

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(model, *args, **kwargs)
        step = self.state.global_step + 1
        self.losses[step] = self.losses.get(step, 0.0) + float(loss)
        if step == 1:
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            self.gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in trained.items()}
        return loss


class Between(TrainerCallback):
    """What peft's documentation has users do between two steps; and an early end."""

    def __init__(self, stop_after: int | None) -> None:
        self._stop_after = stop_after

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        allocate = getattr(model.base_model, "update_and_allocate", None)
        if allocate is not None:
            allocate(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step == self._stop_after


class Parts:
    """What a run is made of, on one process."""

    def __init__(self, body: dict[str, Any], folder: Path) -> None:
        job = PeftJob.model_validate(body).spec
        self.base = Path(job.base_model.uri.removeprefix("file://"))
        self.processor = load_processor(self.base, job)
        self.spec, self.splits = load_data(job, self.processor, self.base, folder)
        self.task: Task = task_of(self.spec, pad_of(self.processor), self.splits.labels, self.processor)

    def model(self) -> Any:
        """Return the base, whole, as transformers loads it."""
        is_classifier = "Classification" in self.spec.task.type
        settings = {"num_labels": len(self.splits.labels or "1")} if is_classifier else {}
        model = AUTO_CLASSES[self.spec.task.type].from_pretrained(self.base, **settings)
        model.config.pad_token_id = pad_of(self.processor)
        return model

    def method(self) -> Method:
        """Return our method, for its config alone."""
        _, head = self.task.skeleton(Paper(self.base, "", torch.float32))
        return method_of(self.spec, head, self.processor)


def adapted(method: Method, model: Any, accumulation: int) -> Any:
    """Return the whole base with the method in it."""
    if isinstance(method, OwnMethod):
        return method.inject(model)
    config = method.saving_whole(method.config(model), model)
    if hasattr(config, "orth_reg_weight"):
        config.orth_reg_weight /= accumulation  # else peft would count the penalty once for each micro step
    return get_peft_model(model, config)


def train(body: dict[str, Any], initial: dict[str, torch.Tensor], folder: Path, stop_after: int | None) -> Reference:
    """Return a trainer that trained, up to a step."""
    parts = Parts(body, folder)
    training, examples, method = parts.spec.training, parts.splits.train.examples, parts.method()
    model = parts.model()
    accumulation = training.batch_size // (training.micro_batch_size or 8)
    model = adapted(method, model, accumulation)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert own.keys() == initial.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(initial[name])
    arguments = TrainingArguments(
        output_dir=str(folder / "hf"),
        per_device_train_batch_size=training.micro_batch_size or 8,
        gradient_accumulation_steps=accumulation,
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
        batch = parts.task.collate(rows)
        if parts.spec.task.type != "Seq2SeqLM":
            return batch
        labels = batch["labels"][:, 1:]  # ours have a place for the start token
        decoded = model.prepare_decoder_input_ids_from_labels(labels)
        return {**batch, "labels": labels, "decoder_input_ids": decoded}

    ratios = method.learning_rates(model)
    groups = [{"params": [p], "lr": training.learning_rate * ratios.get(name, 1.0)} for name, p in own.items()]
    trainer = Reference(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collate,
        compute_loss_func=None if parts.spec.task.type == "CausalLM" else mean_over_batch,
        callbacks=[Between(stop_after)],
        optimizers=(torch.optim.AdamW(groups, weight_decay=0.0), None),
    )
    trainer.losses, trainer.order = {}, OurOrder(len(examples), training.batch_size, training.seed)
    trainer.train()
    return trainer


@torch.no_grad()
def evaluate(body: dict[str, Any], adapter: Path, folder: Path) -> dict[str, float]:
    """Return the metrics of a published adapter on the validation data, on the whole base, in fp32."""
    parts = Parts(body, folder)
    assert parts.splits.validation is not None
    examples = parts.splits.validation.examples
    is_own = json.loads((adapter / "adapter_config.json").read_text())["peft_type"].startswith("PEFTJOB")
    model = load(parts.model(), adapter) if is_own else PeftModel.from_pretrained(parts.model(), adapter).eval()
    loss, predicted = parts.task.loss_sum(model, parts.task.collate(examples))
    count = sum(parts.task.count(example) for example in examples)
    return parts.task.metrics(float(loss) / count, None if predicted is None else predicted.float(), examples)


def answer_cases(folder: Path) -> dict[str, Any]:
    """Return the losses of the runs that are compared."""
    jobs = json.loads((folder / "cases.json").read_text())
    ours = torch.load(folder / "cases-1-0.pt")
    return {
        name: list(train(jobs[name], ours[name]["initial"], folder, None).losses.values()) for name in cases.COMPARED
    }


def answer_methods(folder: Path) -> dict[str, Any]:
    """Return, by run, what plain peft trains to in fp32, and what it makes of every published adapter."""
    jobs = json.loads((folder / "methods.json").read_text())
    ours = torch.load(folder / "methods-2-0.pt")
    found: dict[str, Any] = {}
    for row in methods.ROWS:
        name = methods.run_name(row, "FP32")
        if row.compared:
            trainer = train(jobs[name], ours[name]["initial"], folder, methods.COMPARED_STEPS)
            found[name] = {"losses": list(trainer.losses.values()), "gradients": trainer.gradients}
            found[name]["metrics"] = evaluate(jobs[name], folder / f"saved-{name}-0", folder)
    return found


def main(folder: Path, name: str) -> None:
    """Do the runs that are compared."""
    quiet_libraries()
    torch.save({"cases": answer_cases, "methods": answer_methods}[name](folder), folder / f"reference-{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
