"""What a base says, with or without an adapter: plain transformers and peft, nothing of PeftJob. Called by `run`."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

BATCH = 32
MAX_NEW_TOKENS = 64

Predict = Callable[[Path, Path | None, Sequence[Any]], list[str]]
"""Of a base's folder, an adapter's folder if there is one, and questions."""


def batched(questions: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield the questions in order, so many at once."""
    for start in range(0, len(questions), BATCH):
        yield list(questions[start : start + BATCH])


def generated(base: Path, adapter: Path | None, questions: Sequence[Any]) -> list[str]:
    """Return the likeliest continuation of each prompt or chat, up to the end token."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    answers: list[str] = []
    for batch in batched(questions):
        texts = [
            q if isinstance(q, str) else tokenizer.apply_chat_template(q, tokenize=False, add_generation_prompt=True)
            for q in batch
        ]
        inputs = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answers += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def classified(base: Path, adapter: Path | None, questions: Sequence[str]) -> list[str]:
    """Return the label of each text; without an adapter there is no classifier, and so no label."""
    if adapter is None:
        return [""] * len(questions)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels = json.loads((adapter / "labels.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    bare = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels), dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(bare, adapter).eval()
    answers: list[str] = []
    for batch in batched(questions):
        with torch.no_grad():
            logits = model(**tokenizer(batch, padding=True, truncation=True, return_tensors="pt")).logits
        answers += [labels[i] for i in logits.argmax(-1).tolist()]
    return answers


PREDICT: dict[str, Predict] = {"CausalLM": generated, "SequenceClassification": classified}
"""By the task's type."""
