"""Predictions: one for each row, in the rows' order, whatever the batches; and what is said of wrong inputs."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import peftjob_bottleneck
import pyarrow
import pyarrow.parquet
import pytest
import torch
from peftjob_trainer import predict
from peftjob_trainer.usage import Usage
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

# peft 0.21 asks transformers 5.23 by a name that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
ROOT = Path(__file__).resolve().parents[3]
LABELS = ["no", "yes"]
TAGS = ["O", "B-PER", "I-PER"]
WORDS = ["[PAD]", "[END]", "a", "b", "c", "[UNK]"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
ROWS = ["a b c a b c", "a", "b c", "c c c"]
CHAT = "{% for m in messages %}{{ m.content }} {% endfor %}"

Make = Callable[[Path], Any]


def bert(kind: Any, **head: Any) -> Make:
    """Return what writes a small BERT without a head, and returns one with a head of random numbers."""

    def make(base: Path) -> Any:
        BertModel(BertConfig(vocab_size=len(WORDS), **SIZES)).save_pretrained(base)
        model = kind.from_pretrained(base, **head)
        torch.nn.init.normal_(model.classifier.weight)
        return model

    return make


def llama(base: Path) -> Any:
    config = LlamaConfig(vocab_size=len(WORDS), bos_token_id=None, eos_token_id=1, pad_token_id=0, **SIZES)
    model = LlamaForCausalLM(config)
    model.save_pretrained(base)
    return model


def t5(base: Path) -> Any:
    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16}
    config = T5Config(vocab_size=len(WORDS), decoder_start_token_id=0, eos_token_id=1, pad_token_id=0, **sizes)
    model = T5ForConditionalGeneration(config)
    model.save_pretrained(base)
    return model


def published(folder: Path, make: Make, config: peft.PeftConfig, **usage: Any) -> tuple[Path, Any]:
    """Write an adapter as a PeftJob publishes it; return its folder and the model with it, as peft has it."""
    torch.manual_seed(2)  # by which the heads of all tests give more than one answer
    base, adapter = folder / "base", folder / "adapter"
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]", chat_template=CHAT
    )
    model = peft.get_peft_model(make(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(str(adapter))
    tokenizer.save_pretrained(base)
    Usage(base=f"file://{base}", **usage).write(adapter)
    return adapter, model.eval()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder with an adapter of a classifier."""
    return classifier(tmp_path)[0]


def classifier(folder: Path) -> tuple[Path, Any]:
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    make = bert(BertForSequenceClassification, num_labels=len(LABELS))
    return published(folder, make, config, task="SequenceClassification", labels=LABELS, columns={"text": "body"})


def answers(adapter: Path, rows: list[Any], *more: str, column: str = "body") -> list[dict[str, Any]]:
    (adapter / "rows.jsonl").write_text("".join(json.dumps({column: row}) + "\n" for row in rows))
    out = adapter / "answers.jsonl"
    given = ["--adapter", str(adapter), "--input", str(adapter / "rows.jsonl"), "--output", str(out), *more]
    assert predict.main(given) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def ids_of(text: str) -> torch.Tensor:
    """Return the tokens of a text as a batch of one, without padding."""
    return torch.tensor([[WORDS.index(word) for word in text.split()]])


def test_answers_are_in_the_order_of_the_rows(adapter: Path) -> None:
    alone = [answers(adapter, [row])[0]["scores"]["yes"] for row in ROWS]
    together = answers(adapter, ROWS, "--batch-size", "3")
    assert [each["scores"]["yes"] for each in together] == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 5) for score in alone}) == len(ROWS)
    assert all(each["score"] == max(each["scores"].values()) for each in together)


def test_all_labels_of_a_text(tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    make = bert(BertForSequenceClassification, num_labels=2, problem_type="multi_label_classification")
    kind = {"task": "SequenceClassification", "settings": {"problem": "MultiLabel"}}
    adapter, model = published(tmp_path, make, config, labels=LABELS, **kind)
    for found, text in zip(answers(adapter, ROWS, column="text"), ROWS, strict=True):
        want = model(input_ids=ids_of(text)).logits[0].sigmoid().tolist()
        assert list(found["scores"].values()) == pytest.approx(want, abs=1e-5)
        assert found["labels"] == [label for label, score in zip(LABELS, want, strict=True) if score > 0.5]


def test_the_number_of_a_text(tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    make = bert(BertForSequenceClassification, num_labels=1, problem_type="regression")
    kind = {"task": "SequenceClassification", "settings": {"problem": "Regression"}}
    adapter, model = published(tmp_path, make, config, **kind)
    want = [model(input_ids=ids_of(text)).logits.item() for text in ROWS]
    assert [found["number"] for found in answers(adapter, ROWS, column="text")] == pytest.approx(want, abs=1e-5)


def test_words_and_the_names_in_a_text(tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["query"])
    make = bert(BertForTokenClassification, num_labels=len(TAGS))
    adapter, model = published(tmp_path, make, config, task="TokenClassification", labels=TAGS, max_length=5)
    want = [[TAGS[n] for n in model(input_ids=ids_of(text)[:, :5]).logits[0].argmax(-1).tolist()] for text in ROWS]
    words = answers(adapter, [text.split() for text in ROWS], column="tokens")
    assert [found["tags"] for found in words] == [[*want[0], None], *want[1:]]  # the first has six words
    assert {tag for tags in want for tag in tags} > {"O"}

    for found, text, tags in zip(answers(adapter, ROWS, column="text"), ROWS, want, strict=True):
        named = {n for span in found["spans"] for n in range(span["start"] // 2, (span["end"] + 1) // 2)}
        assert named == {number for number, tag in enumerate(tags) if tag != "O"}
        assert all(text[span["start"] : span["end"]] == span["text"] for span in found["spans"])


def test_words_behind_virtual_tokens(tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=3)
    adapter, model = published(tmp_path, bert(BertForTokenClassification, num_labels=3), config,
                               task="TokenClassification", labels=TAGS)  # fmt: skip
    outputs = [model(input_ids=ids_of(text), attention_mask=torch.ones_like(ids_of(text))).logits[0] for text in ROWS]
    want = [[TAGS[n] for n in logits[3:].argmax(-1).tolist()] for logits in outputs]
    found = answers(adapter, [text.split() for text in ROWS], column="tokens")
    assert [row["tags"] for row in found] == want
    assert want != [[TAGS[n] for n in logits[:-3].argmax(-1).tolist()] for logits in outputs]


@pytest.mark.parametrize("column", ["prompt", "messages"])
def test_the_continuation_of_a_prompt(column: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    adapter, model = published(tmp_path, llama, config, task="CausalLM", chat=column == "messages")
    chats = [[{"role": "user", "content": text}] for text in ROWS]
    found = answers(adapter, chats if column == "messages" else ROWS, "--max-new-tokens", "4", column=column)
    for row, text in zip(found, ROWS, strict=True):
        ids = model.generate(input_ids=ids_of(text), max_new_tokens=4, do_sample=False)[0, len(text.split()) :]
        assert row["completion"] == " ".join(WORDS[n] for n in ids.tolist() if 1 < n < 5)


def test_the_target_of_a_source(tmp_path: Path) -> None:
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q"])
    settings = {"sourcePrefix": "b "}
    adapter, model = published(tmp_path, t5, config, task="Seq2SeqLM", settings=settings, max_length=3)
    found = answers(adapter, ROWS, "--max-new-tokens", "4", column="source")
    for row, text in zip(found, ROWS, strict=True):
        ids = model.generate(input_ids=ids_of(f"b {text}")[:, :3], max_new_tokens=4, do_sample=False)[0]
        assert row["target"] == " ".join(WORDS[n] for n in ids.tolist() if 1 < n < 5)


def test_layers_that_peft_has_not(adapter: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(adapter.parent / "base", num_labels=len(LABELS))
    settings = peftjob_bottleneck.Settings("Pfeiffer", 4, "ReLU", 1.0, 0.0)
    names = [*peftjob_bottleneck.inject(model, settings), "classifier"]
    for name in names:
        for parameter in model.get_submodule(name).parameters():
            torch.nn.init.normal_(parameter)
    tensors = {n: p for n, p in model.named_parameters() if n.startswith(tuple(names))}
    peftjob_bottleneck.save(adapter, peftjob_bottleneck.BOTTLENECK, tensors, settings, "base", None)
    want = [model.eval()(input_ids=ids_of(text)).logits.softmax(-1)[0, 1].item() for text in ROWS]
    assert [row["scores"]["yes"] for row in answers(adapter, ROWS)] == pytest.approx(want, abs=1e-5)


@pytest.fixture
def viewer(tmp_path: Path) -> Path:
    """A folder with an adapter of a classifier of images, as a PeftJob publishes it."""
    torch.manual_seed(0)
    base, folder = tmp_path / "vit", tmp_path / "viewer"
    ViTModel(ViTConfig(image_size=16, patch_size=8, **SIZES), add_pooling_layer=False).save_pretrained(base)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(base)
    model = ViTForImageClassification.from_pretrained(base, num_labels=2)
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
    peft.get_peft_model(model, config).save_pretrained(str(folder))
    Usage("ImageClassification", f"file://{base}", labels=LABELS).write(folder)
    (folder / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (9, 9), (100 * number, 0, 0)).save(folder / f"images/{number}.png")
    return folder


def test_images_are_read_from_a_folder_a_file_a_table_or_lines(viewer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = sorted((viewer / "images").iterdir())
    (viewer / "rows.jsonl").write_text("".join(json.dumps({"image": f"images/{p.name}"}) + "\n" for p in images))
    column = pyarrow.array([path.read_bytes() for path in images])
    pyarrow.parquet.write_table(pyarrow.table({"image": column}), viewer / "rows.parquet")
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{path}\n" for path in images)))
    out = viewer / "answers.jsonl"

    def said(*given: str) -> list[dict[str, Any]]:
        assert predict.main(["--adapter", str(viewer), "--output", str(out), "--batch-size", "2", *given]) == 0
        return [json.loads(line) for line in out.read_text().splitlines()]

    found = said("--input", str(viewer / "images"))
    assert [each["image"] for each in found] == [str(path) for path in images]
    assert len({round(each["scores"]["yes"], 5) for each in found}) == 3
    assert said("--input", str(viewer / "rows.jsonl")) == found
    assert said() == found
    assert said("--input", str(images[1]))[0]["scores"] == pytest.approx(found[1]["scores"])
    from_bytes = said("--input", str(viewer / "rows.parquet"))
    assert [each["scores"] for each in from_bytes] == [each["scores"] for each in found]
    assert from_bytes[2]["image"].endswith("rows.parquet row 3")


def test_nothing_but_answers_is_on_standard_output(viewer: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    command = [
        sys.executable,
        "-m",
        "peftjob_trainer.predict",
        "--adapter",
        str(viewer),
        "--input",
        str(viewer / "images"),
    ]
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("crds", "trainer"))
    done = subprocess.run(
        command, env={**environment, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == sorted(map(str, viewer.glob("images/*")))


def test_an_image_that_cannot_be_decoded_is_named(viewer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (viewer / "images/1.png").write_bytes(b"words")
    assert predict.main(["--adapter", str(viewer), "--input", str(viewer / "images")]) == 65
    assert "images/1.png: the image 1.png (5 bytes) cannot be decoded" in capsys.readouterr().err


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
