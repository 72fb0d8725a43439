"""What a base says, with or without an adapter: plain transformers and peft, nothing of PeftJob. Called by `run`."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import retail

BATCH = 32
MAX_NEW_TOKENS = 64
MAX_NEW_BYTES = 96
"""Of translations, whose tokens are bytes."""
SEED = 0

Predict = Callable[[Path, Path | None, Sequence[Any], Sequence[str]], list[Any]]
"""Of a base's folder, an adapter's folder if there is one, questions, and the labels that there are."""


def generated(base: Path, adapter: Path | None, questions: Sequence[Any], _: Sequence[str] = ()) -> list[str]:
    """Return the likeliest continuation of each prompt or chat, or output for each source, up to the end token."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    is_translator = AutoConfig.from_pretrained(base).is_encoder_decoder
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="right" if is_translator else "left")
    kind: Any = AutoModelForSeq2SeqLM if is_translator else AutoModelForCausalLM
    model = _adapted(kind.from_pretrained(base, dtype=torch.float32), adapter)
    limit = MAX_NEW_BYTES if is_translator else MAX_NEW_TOKENS
    answers: list[str] = []
    for batch in _batched(questions):
        texts = [
            q if isinstance(q, str) else tokenizer.apply_chat_template(q, tokenize=False, add_generation_prompt=True)
            for q in batch
        ]
        inputs = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        begin = 0 if is_translator else inputs["input_ids"].shape[1]
        answers += tokenizer.batch_decode(ids[:, begin:], skip_special_tokens=True)
    return answers


def classified(base: Path, adapter: Path | None, questions: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the label of each text; without an adapter, as a classifier says that nobody trained."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)

    def inputs(batch: list[str]) -> Any:
        return tokenizer(batch, padding=True, truncation=True, return_tensors="pt")

    return _labelled(AutoModelForSequenceClassification, inputs, base, adapter, questions, labels)


def seen(base: Path, adapter: Path | None, questions: Sequence[bytes], labels: Sequence[str]) -> list[str]:
    """Return the label of each image file; without an adapter, as a classifier says that nobody trained."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    processor = AutoImageProcessor.from_pretrained(base)

    def inputs(batch: list[bytes]) -> Any:
        return processor([Image.open(io.BytesIO(data)).convert("RGB") for data in batch], return_tensors="pt")

    return _labelled(AutoModelForImageClassification, inputs, base, adapter, questions, labels)


def ranked(base: Path, adapter: Path | None, questions: Sequence[str], _: Sequence[str]) -> list[list[str]]:
    """Return the items on sale for each history, the one that fits best first: by the cosine of mean vectors."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = _adapted(AutoModel.from_pretrained(base, dtype=torch.float32), adapter)

    def vectors(texts: Sequence[str]) -> Any:
        found = []
        for batch in _batched(texts):
            inputs = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"]
            found.append((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return torch.nn.functional.normalize(torch.cat(found), dim=1)

    on_sale = [title for titles in retail.items().values() for title in titles]
    order = (vectors(questions) @ vectors(on_sale).T).argsort(1, descending=True)
    return [[on_sale[place] for place in row[: retail.TOP]] for row in order.tolist()]


def _labelled(
    kind: Any,
    inputs: Callable[[list[Any]], Any],
    base: Path,
    adapter: Path | None,
    questions: Sequence[Any],
    labels: Sequence[str],
) -> list[str]:
    import torch

    names = list(labels) if adapter is None else json.loads((adapter / "labels.json").read_text())
    torch.manual_seed(SEED)
    model = _adapted(kind.from_pretrained(base, num_labels=len(names), dtype=torch.float32), adapter)
    answers: list[str] = []
    for batch in _batched(questions):
        with torch.no_grad():
            logits = model(**inputs(batch)).logits
        answers += [names[i] for i in logits.argmax(-1).tolist()]
    return answers


def _adapted(model: Any, adapter: Path | None) -> Any:
    from peft import PeftModel

    return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()


def _batched(questions: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(questions), BATCH):
        yield list(questions[start : start + BATCH])


PREDICT: dict[str, Predict] = {
    "CausalLM": generated,
    "Seq2SeqLM": generated,
    "SequenceClassification": classified,
    "ImageClassification": seen,
    "Ranking": ranked,
}
"""By the task's type."""
