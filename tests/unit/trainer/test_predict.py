"""Predictions: one for each row, in the rows' order, whatever the batches; and what is said of wrong inputs."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peftjob_trainer import predict
from peftjob_trainer.usage import Usage
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

# peft 0.21 asks transformers 5.23 by a name that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
LABELS = ["no", "yes"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder with an adapter of a classifier, as a PeftJob publishes it."""
    torch.manual_seed(0)
    base, folder = tmp_path / "base", tmp_path / "adapter"
    inner = Tokenizer(models.WordLevel({w: n for n, w in enumerate(["[PAD]", "a", "b", "c", "[UNK]"])}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    BertModel(BertConfig(vocab_size=5, **SIZES)).save_pretrained(base)
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(base)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    model = BertForSequenceClassification.from_pretrained(base, num_labels=2)
    peft.get_peft_model(model, config).save_pretrained(str(folder))
    Usage("SequenceClassification", f"file://{base}", labels=LABELS, columns={"text": "body"}).write(folder)
    return folder


def answers(adapter: Path, rows: list[str], *more: str) -> list[dict[str, Any]]:
    (adapter / "rows.jsonl").write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))
    out = adapter / "answers.jsonl"
    given = ["--adapter", str(adapter), "--input", str(adapter / "rows.jsonl"), "--output", str(out), *more]
    assert predict.main(given) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_answers_are_in_the_order_of_the_rows(adapter: Path) -> None:
    rows = ["a b c a b c", "a", "b c", "c c c"]
    alone = [answers(adapter, [row])[0]["scores"]["yes"] for row in rows]
    together = answers(adapter, rows, "--batch-size", "3")
    assert [each["scores"]["yes"] for each in together] == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 5) for score in alone}) == len(rows)
    assert all(each["score"] == max(each["scores"].values()) for each in together)


@pytest.mark.parametrize(
    ("given", "code", "want"),
    [
        (["--input", "nothing.jsonl"], 66, "DatasetNotFound: --input nothing.jsonl"),
        (["--batch-size", "0"], 64, "InvalidConfig: --batch-size"),
        (["--colour"], 64, "InvalidConfig: unrecognized arguments"),
    ],
    ids=["no file", "no batch", "no such argument"],
)
def test_what_is_wrong_is_named(
    adapter: Path, given: list[str], code: int, want: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main(["--adapter", str(adapter), *given]) == code
    assert capsys.readouterr().err.startswith(want)
