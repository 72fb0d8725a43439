"""What the fast tests of storage, publishing and data share: specs, identities, a tokenizer whose tokens are bytes."""

from collections.abc import Callable
from typing import Any

import pytest
from peftjob_api import JobIdentity, PeftJobSpec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

Spec = Callable[..., PeftJobSpec]


@pytest.fixture
def spec() -> Spec:
    """Return a builder of specs; `dataset`, `task` and `training` are merged over the smallest valid ones."""

    def build(
        train: str = "file:///data/train.jsonl", *, task: Any = None, training: Any = None, **dataset: Any
    ) -> PeftJobSpec:
        return PeftJobSpec.model_validate(
            {
                "baseModel": {"uri": "file:///models/tiny"},
                "task": task or {"type": "CausalLM"},
                "dataset": {"train": train, **dataset},
                "training": training or {},
                "output": {"uri": "file:///out/adapter"},
            }
        )

    return build


@pytest.fixture
def job() -> JobIdentity:
    return JobIdentity(namespace="team", name="sentiment", uid="uid-1")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer with one token per byte of text, `<s>` in front of every text, and `</s>` as end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    from tokenizers.processors import TemplateProcessing

    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
