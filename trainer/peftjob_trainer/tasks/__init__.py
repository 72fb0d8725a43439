"""Tasks, one module each with the same names; chosen by `spec.task.type`. Used by `rank`, `batches` and `evaluate`.

`skeleton(base, labels)` -> model without data, names of new modules; `count(example)` -> what the loss is divided by;
`collate(examples, pad)` -> a batch, and `collate_packed(rows, pad)` where examples can share a row; `silence(batch)` ->
the same with nothing supervised; `loss_sum(model, batch)` -> sum of losses and predictions; `metrics(...)`;
`EVALUATION_BATCHES`.
"""

from types import ModuleType

from peftjob_api.spec import TaskSpec

from . import causal_lm, sequence_classification

_TASKS: dict[str, ModuleType] = {"CausalLM": causal_lm, "SequenceClassification": sequence_classification}


def task_of(spec: TaskSpec) -> ModuleType:
    """Return the module of a task."""
    return _TASKS[spec.type]
