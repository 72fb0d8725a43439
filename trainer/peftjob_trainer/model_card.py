"""The adapter's README.md: what it is, how good, and a snippet that loads it as printed.

Called by rank 0 before publishing. The snippet uses plain transformers and peft, and nothing of PeftJob but the loader
of those methods that peft has not.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from peftjob_api import PeftJobSpec, PlanInfo, RunConfig

from .history import History
from .report import summarise
from .storage.uris import parse

CARD_NAME = "README.md"
LABELS_NAME = "labels.json"
_MAX_INLINE_LABELS = 20
_OWN_METHODS = ("Bottleneck", "BitFit")
"""Those whose adapters peft cannot load."""
_DTYPES = {"FP32": "torch.float32", "BF16": "torch.bfloat16", "Auto": '"auto"'}


@dataclass(frozen=True)
class _Use:
    """How what a task has trained is loaded and used."""

    auto_class: str
    """Of transformers."""
    pipeline_tag: str
    """By which the hub finds it."""
    snippet: str
    """Template that uses `model`, and `tokenizer` or `processor`."""
    config: tuple[str, ...] = ()
    """Settings of the model's head, as Python."""
    reads_images: bool = False
    """Whether it has an image processor instead of a tokenizer."""

    @property
    def has_labels(self) -> bool:
        """Whether the head has an output for each of some labels."""
        return _NAMES[0] in self.config


_NAMES = (
    "num_labels=len(LABELS)",
    "id2label=dict(enumerate(LABELS))",
    "label2id={label: index for index, label in enumerate(LABELS)}",
)
_CLASSIFIER = "AutoModelForSequenceClassification", "text-classification"
_TAGGER = _Use("AutoModelForTokenClassification", "token-classification", "tags.py.j2", _NAMES)
_WRITER = _Use("AutoModelForCausalLM", "text-generation", "text.py.j2")
_USES = {
    "CausalLM": _WRITER,
    "PreferenceOptimisation": _WRITER,
    "Ranking": _Use("AutoModel", "feature-extraction", "ranking.py.j2"),
    "Seq2SeqLM": _Use("AutoModelForSeq2SeqLM", "text2text-generation", "target.py.j2"),
    "SequenceClassification": _Use(*_CLASSIFIER, "classes.py.j2", _NAMES),
    "SequenceClassification/MultiLabel": _Use(
        *_CLASSIFIER, "labels.py.j2", (*_NAMES, 'problem_type="multi_label_classification"')
    ),
    "SequenceClassification/Regression": _Use(
        *_CLASSIFIER, "number.py.j2", ("num_labels=1", 'problem_type="regression"')
    ),
    "TokenClassification": _TAGGER,
    "TokenClassification/Plain": _TAGGER,
    "ImageClassification": _Use(
        "AutoModelForImageClassification", "image-classification", "image.py.j2", _NAMES, reads_images=True
    ),
}
"""`TaskSpec.kind` -> its use."""


def write_model_card(
    folder: Path,
    run: RunConfig,
    plan: PlanInfo,
    history: History,
    *,
    labels: Sequence[str] | None = None,
    chat: bool = False,
) -> None:
    """Write `README.md` into a folder, and for a classifier `labels.json`, its labels in the order of its outputs.

    Args:
        folder: That is going to be published.
        run: What was asked for.
        plan: How the base lay on the ranks.
        history: What happened.
        labels: Of a classifier (`Splits.labels`). Default: those of `spec.task`.
        chat: Whether the training data were chats (`Splits.chat`), so that the snippet uses the chat template.
    """
    spec = run.spec
    base, note = _base(spec.base_model.uri)
    use = _USES[spec.task.kind]
    if use.has_labels:
        labels = labels or spec.task.labels
        assert labels, "a classifier's labels are known by the time it is published"
        (folder / LABELS_NAME).write_text(json.dumps(list(labels), ensure_ascii=False) + "\n", encoding="utf-8")
    front = {
        # The hub refuses a card whose base_model is no repository of its own.
        **({"base_model": base} if spec.base_model.uri.startswith("hf://") else {}),
        "library_name": "transformers" if spec.method.type in _OWN_METHODS else "peft",
        "pipeline_tag": use.pipeline_tag,
        "tags": [spec.method.type.lower(), "peftjob"],
    }
    metrics = summarise(run, history)
    splits = [name for name in ("validation", "test") if metrics.get(name)]
    # Not HTML: what a user may have written is quoted as YAML or Python where it stands.
    environment = Environment(
        loader=PackageLoader("peftjob_trainer"), autoescape=False, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("model_card.md").render(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        run=run,
        spec=spec,
        plan=plan,
        share=plan.trainable_parameters / max(plan.base_parameters + plan.trainable_parameters, 1),
        metrics=metrics,
        names=list(dict.fromkeys(key for split in splits for key in metrics[split])),
        splits=splits,
        base=json.dumps(base),
        base_note=note,
        is_remote=parse(spec.base_model.uri).scheme == "s3",
        revision=json.dumps(spec.base_model.revision) if spec.base_model.revision else None,
        use=use,
        is_own=spec.method.type in _OWN_METHODS,
        prefix=_prefix(spec),
        labels=_labels_expression(labels) if labels and use.has_labels else "",
        chat=chat,
        pooling=spec.task.ranking.pooling if spec.task.ranking else None,
        dtype=_DTYPES[spec.training.precision],
    )
    (folder / CARD_NAME).write_text(text, encoding="utf-8")


def _prefix(spec: PeftJobSpec) -> str:
    """Return a Python expression to put before a source text."""
    prefix = spec.task.seq2seq_lm.source_prefix if spec.task.seq2seq_lm else None
    return f"{json.dumps(prefix)} + ".replace("`", "\\u0060") if prefix else ""


def _base(uri: str) -> tuple[str, str]:
    """Return what the snippet loads as the base, and a comment on it."""
    location = parse(uri)
    if location.scheme == "hf":
        return location.container, ""
    if location.scheme == "s3":
        return location.path.rpartition("/")[2] or location.container, f"  # a copy of {uri}"
    return str(location.local), ""


def _labels_expression(labels: Sequence[str]) -> str:
    """Return a Python expression of the labels."""
    if len(labels) > _MAX_INLINE_LABELS:
        return f'json.load(open(f"{{ADAPTER}}/{LABELS_NAME}", encoding="utf-8"))'
    # JSON strings in ASCII are Python literals; a back-quote could end the code block.
    return json.dumps(list(labels)).replace("`", "\\u0060")
