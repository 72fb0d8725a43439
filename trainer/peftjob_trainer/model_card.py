"""The adapter's README.md: what it is, how good, and a snippet that loads it as printed.

Called by rank 0 before publishing. The snippet uses plain transformers and peft; nothing of PeftJob is needed to use
an adapter.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from peftjob_api import PlanInfo, RunConfig

from .history import History
from .report import summarise
from .storage.uris import parse

CARD_NAME = "README.md"
LABELS_NAME = "labels.json"
_MAX_INLINE_LABELS = 20
_DTYPES = {"FP32": "torch.float32", "BF16": "torch.bfloat16", "Auto": '"auto"'}


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
    is_classifier = spec.task.type == "SequenceClassification"
    if is_classifier:
        given = spec.task.sequence_classification.labels if spec.task.sequence_classification else None
        labels = labels or given
        assert labels, "a classifier's labels are known by the time it is published"
        (folder / LABELS_NAME).write_text(json.dumps(list(labels), ensure_ascii=False) + "\n", encoding="utf-8")
    front = {
        # The hub refuses a card whose base_model is no repository of its own.
        **({"base_model": base} if spec.base_model.uri.startswith("hf://") else {}),
        "library_name": "peft",
        "pipeline_tag": "text-classification" if is_classifier else "text-generation",
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
        is_classifier=is_classifier,
        labels=_labels_expression(labels) if labels else "",
        chat=chat,
        dtype=_DTYPES[spec.training.precision],
    )
    (folder / CARD_NAME).write_text(text, encoding="utf-8")


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
