"""The model card's snippet, run as printed by a Python that knows nothing of PeftJob, on real adapters."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import peftjob_bottleneck
import pytest
import torch
from peftjob_api import JobIdentity, PeftJobSpec, PlanInfo, RunConfig
from peftjob_api.constants import CLAIM_NAME
from peftjob_trainer.claim import Claim
from peftjob_trainer.history import History
from peftjob_trainer.model_card import write_model_card
from peftjob_trainer.publish import publish
from peftjob_trainer.report import write_report
from peftjob_trainer.storage import Store
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
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

PLAN = PlanInfo(shard_group="Full", ranks=1, base_parameters=99, base_bytes_per_rank=1, trainable_parameters=1)
LABELS = ["no, `never`", "yes"]
TAGS = ["O", "B-PER", "I-PER"]
CHAT = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={t: n for n, t in enumerate(["<pad>", "</s>", *alphabet])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", chat_template=CHAT)


def classifier(base: Path, adapter: Path) -> None:
    """Write a small BERT without a head, and a LoRA adapter with one."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=300, **sizes)).save_pretrained(base)
    model = BertForSequenceClassification.from_pretrained(base, num_labels=len(LABELS))
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"])
    trained = peft.get_peft_model(model, config)
    torch.nn.init.normal_(trained.base_model.model.classifier.modules_to_save["default"].bias)
    trained.save_pretrained(adapter)


def headed(base: Path, adapter: Path, auto: Any, task_type: str, **settings: Any) -> None:
    """Write a small BERT without a head, and a LoRA adapter with one."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=300, **sizes)).save_pretrained(base)
    config = peft.LoraConfig(task_type=task_type, target_modules=["query", "value"])
    peft.get_peft_model(auto.from_pretrained(base, **settings), config).save_pretrained(adapter)


def ranker(base: Path, adapter: Path) -> None:
    """Write a small BERT, and a LoRA adapter of it as it is."""
    headed(base, adapter, BertModel, "FEATURE_EXTRACTION")


def regressor(base: Path, adapter: Path) -> None:
    headed(base, adapter, BertForSequenceClassification, "SEQ_CLS", num_labels=1)


def tagger(base: Path, adapter: Path) -> None:
    headed(base, adapter, BertForTokenClassification, "TOKEN_CLS", num_labels=len(TAGS))


def viewer(base: Path, adapter: Path) -> None:
    """Write a small ViT without a head, and a LoRA adapter with one and the image processor beside it."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes), add_pooling_layer=False).save_pretrained(base)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    model = ViTForImageClassification.from_pretrained(base, num_labels=len(LABELS))
    peft.get_peft_model(model, config).save_pretrained(adapter)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(adapter)


def translator(base: Path, adapter: Path) -> None:
    """Write a small T5 and a LoRA adapter of it."""
    sizes = {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_kv": 16, "d_ff": 32}
    T5ForConditionalGeneration(T5Config(vocab_size=300, decoder_start_token_id=0, **sizes)).save_pretrained(base)
    model = T5ForConditionalGeneration.from_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q"])).save_pretrained(adapter)


def language_model(base: Path, adapter: Path) -> None:
    """Write a small Llama and a LoRA adapter of it."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=300, bos_token_id=None, eos_token_id=1, pad_token_id=0, **sizes))
    model.save_pretrained(base)
    peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(
        adapter
    )


def with_layers(base: Path, adapter: Path) -> None:
    """Write a small Llama and bottleneck layers for it, which peft has not."""
    language_model(base, adapter)
    for file in adapter.iterdir():
        file.unlink()
    model = LlamaForCausalLM.from_pretrained(base)
    settings = peftjob_bottleneck.Settings("Houlsby", 4, "ReLU", 1.0, 0.0)
    names = tuple(peftjob_bottleneck.inject(model, settings))
    tensors = {name: p for name, p in model.named_parameters() if name.startswith(names)}
    peftjob_bottleneck.save(adapter, peftjob_bottleneck.BOTTLENECK, tensors, settings, "tiny", None)


Make = Callable[[Path, Path], None]


# peft 0.21 asks transformers 5.23 by a name that the latter deprecates.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("make", "task", "chat", "want"),
    [
        (classifier, {"type": "SequenceClassification"}, False, "This works as it should."),
        (
            classifier,
            {"type": "SequenceClassification", "sequenceClassification": {"problem": "MultiLabel"}},
            False,
            "] This works as it should.",
        ),
        (
            regressor,
            {"type": "SequenceClassification", "sequenceClassification": {"problem": "Regression"}},
            False,
            " This works as it should.",
        ),
        (tagger, {"type": "TokenClassification"}, False, "'A' "),
        (ranker, {"type": "Ranking", "ranking": {"pooling": "Mean"}}, False, " rain jacket"),
        (ranker, {"type": "Ranking", "ranking": {"pooling": "LastToken"}}, False, " rain jacket"),
        (viewer, {"type": "ImageClassification"}, False, " 0."),
        (
            translator,
            {"type": "Seq2SeqLM", "seq2seqLM": {"sourcePrefix": "translate `this`: "}},
            False,
            "",
        ),
        (language_model, {"type": "CausalLM"}, False, ""),
        (language_model, {"type": "CausalLM"}, True, ""),
        (with_layers, {"type": "CausalLM"}, False, ""),
    ],
    ids=[
        "classifier",
        "labels",
        "number",
        "tags",
        "ranking by means",
        "ranking by last tokens",
        "image",
        "translation",
        "language model",
        "chat",
        "layers of ours",
    ],
)
def test_the_snippet_runs_as_printed_on_what_was_published(
    make: Make, task: Any, chat: bool, want: str, output: Store, job: JobIdentity, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made, folder = tmp_path / "made", tmp_path / "downloaded"
    make(folder / "tiny", made)  # the card says: with a copy of the base in the adapter's folder
    if make is not viewer:
        byte_tokenizer().save_pretrained(made)
    spec = PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "s3://models/acme/tiny"},
            "task": task,
            "method": {"type": "Bottleneck" if make is with_layers else "LoRA"},
            "dataset": {"train": "s3://datasets/train.csv", "maxLength": 64},
            "output": {"uri": output.uri},
        }
    )
    run = RunConfig.of(job, spec)
    write_report(made, run, PLAN, History())
    write_model_card(
        made, run, PLAN, History(), labels={classifier: LABELS, tagger: TAGS, viewer: LABELS}.get(make), chat=chat
    )
    publish(output, output.uri, Claim.take(output, job, 1, "g"), made, job)
    for found in output.list():
        output.download(found.key, folder / found.key)
    assert (folder / CLAIM_NAME).exists()  # it is downloaded too, and disturbs nobody

    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    # A method of ours needs a package of ours, and that one only.
    package = Path(peftjob_bottleneck.__file__).parent
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / package.name).symlink_to(package)
    path = f"import sys; sys.path.append({str(tmp_path / 'path')!r})\n" if make is with_layers else ""
    done = subprocess.run(
        [sys.executable, "-I", "-c", path + code],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert want in done.stdout
    if task in ({"type": "SequenceClassification"}, {"type": "ImageClassification"}):
        assert done.stdout.startswith(tuple(LABELS))
