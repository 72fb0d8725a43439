"""The model card: its front matter is YAML, its snippet is Python that names the right base and labels."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from peftjob_api import JobIdentity, PeftJobSpec, PlanInfo, RunConfig
from peftjob_trainer.history import EvalRecord, History
from peftjob_trainer.model_card import write_model_card

PLAN = PlanInfo(shard_group="Full", ranks=1, base_parameters=99, base_bytes_per_rank=1, trainable_parameters=1)


@pytest.fixture
def card(spec: Callable[..., PeftJobSpec], job: JobIdentity, tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a card and returns its text."""

    def write(
        base: str = "hf://acme/tiny", revision: str | None = None, chat: bool = False, labels: Any = None, **fields: Any
    ) -> str:
        built = spec(**fields)
        model = {"uri": base, **({"revision": revision} if revision else {})}
        built = PeftJobSpec.model_validate({**built.to_wire(), "baseModel": model})
        history = History(evaluations=[EvalRecord(3, "test", {"loss": 0.25, "accuracy": 0.5})])
        write_model_card(tmp_path, RunConfig.of(job, built), PLAN, history, labels=labels, chat=chat)
        return (tmp_path / "README.md").read_text()

    return write


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def snippet(text: str) -> str:
    code = text.split("```python\n")[1].split("```")[0]
    ast.parse(code)
    return code


def constant(code: str, name: str) -> Any:
    """Return the value of an assignment in the snippet."""
    values = [n.value for n in ast.parse(code).body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == name]
    return ast.literal_eval(values[0])


@pytest.mark.parametrize(
    ("base", "want_front", "want_base"),
    [
        ("hf://acme/tiny", "acme/tiny", "acme/tiny"),
        ("s3://models/acme/tiny", None, "tiny"),
        ("s3://models", None, "models"),
        ("pvc://models/tiny", None, "/mnt/pvc/models/tiny"),
        ("file:///models/tiny", None, "/models/tiny"),
    ],
)
def test_where_the_base_is_loaded_from(
    card: Callable[..., str], base: str, want_front: str | None, want_base: str
) -> None:
    text = card(base)
    assert front(text) == {
        **({"base_model": want_front} if want_front else {}),
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "peftjob"],
    }
    assert f"adapter of `{base}`" in text
    assert constant(snippet(text), "BASE") == want_base
    assert ("aws s3 cp" in text) == base.startswith("s3://")


def test_a_pinned_revision_is_pinned_in_the_snippet(card: Callable[..., str]) -> None:
    assert 'revision="v1"' in snippet(card(revision="v1"))


@pytest.mark.parametrize(
    "labels", [["negative", "positive"], ['quote"', "back`tick```", "ü\n", "\\"], [str(n) for n in range(500)]],
    ids=["two", "odd characters", "many"],
)  # fmt: skip
def test_a_classifier_s_labels_are_in_the_snippet(card: Callable[..., str], tmp_path: Path, labels: list[str]) -> None:
    text = card(task={"type": "SequenceClassification"}, labels=labels)
    code = snippet(text)
    assert json.loads((tmp_path / "labels.json").read_text()) == labels
    assert front(text)["pipeline_tag"] == "text-classification"
    if len(labels) > 20:
        assert 'json.load(open(f"{ADAPTER}/labels.json"' in code
        assert code.startswith("import json\n")
    else:
        assert constant(code, "LABELS") == labels


@pytest.mark.parametrize(
    ("task", "tag"),
    [
        ({"type": "Seq2SeqLM"}, "text2text-generation"),
        ({"type": "TokenClassification"}, "token-classification"),
        ({"type": "ImageClassification"}, "image-classification"),
        ({"type": "PreferenceOptimisation"}, "text-generation"),
        ({"type": "Ranking", "ranking": {"pooling": "Mean"}}, "feature-extraction"),
        (
            {"type": "SequenceClassification", "sequenceClassification": {"problem": "MultiLabel"}},
            "text-classification",
        ),
        (
            {"type": "SequenceClassification", "sequenceClassification": {"problem": "Regression"}},
            "text-classification",
        ),
    ],
)
def test_each_task_has_its_snippet_and_its_name_on_the_hub(
    card: Callable[..., str], tmp_path: Path, task: dict[str, Any], tag: str
) -> None:
    text = card(
        task=task,
        labels=None
        if tag in ("text2text-generation", "text-generation", "feature-extraction") or "Regression" in str(task)
        else ["a", "b"],
    )
    assert snippet(text)
    assert front(text)["pipeline_tag"] == tag
    assert (tmp_path / "labels.json").exists() == ("LABELS = " in text)


def test_labels_default_to_those_of_the_task(card: Callable[..., str]) -> None:
    task = {"type": "SequenceClassification", "sequenceClassification": {"labels": ["b", "a"]}}
    assert constant(snippet(card(task=task)), "LABELS") == ["b", "a"]


def test_results_are_in_the_card(card: Callable[..., str]) -> None:
    assert "| data | loss | accuracy |\n|---|---|---|\n| test | 0.2500 | 0.5000 |\n" in card()


def test_chats_use_the_chat_template(card: Callable[..., str]) -> None:
    assert "apply_chat_template" not in snippet(card())
    assert "apply_chat_template" in snippet(card(chat=True))
