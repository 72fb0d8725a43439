"""Who reads the rows of each task, one module each with the same functions; chosen by `spec.task.type`.

`choose_layout(spec, present, uri)` -> which column is what; `labels_of(spec, source, layout)` -> names of classes;
`encoder(spec, layout, tokenizer, labels, uri)` -> what makes a sample of a row.
"""

from types import ModuleType

from peftjob_api.task_spec import TaskSpec

from . import classified, imaged, matched, preferences, source_target, tagged, text

_READERS: dict[str, ModuleType] = {
    "CausalLM": text,
    "Seq2SeqLM": source_target,
    "SequenceClassification": classified,
    "TokenClassification": tagged,
    "ImageClassification": imaged,
    "PreferenceOptimisation": preferences,
    "Ranking": matched,
}


def reader_of(spec: TaskSpec) -> ModuleType:
    """Return the module that reads a task's rows."""
    return _READERS[spec.type]
