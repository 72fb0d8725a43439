"""A small Llama that continues English sentences. Called by `bases`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .package_text import paragraphs
from .recipes import Recipe

PAD, END = "<pad>", "</s>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}\n{% endif %}{{ message['role'] | capitalize }}: "
    "{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}\nAssistant:{% endif %}"
)


def prepare(recipe: Recipe, folder: Path) -> tuple[Any, Iterator[dict[str, torch.Tensor]]]:
    """Write the tokenizer; return a model and its batches: `input_ids` and `labels`, int64 (batch, length)."""
    texts = paragraphs(recipe.packages, recipe.seed)
    tokenizer = make_tokenizer(texts, recipe.vocabulary)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    stream = [i for ids in tokenizer(texts)["input_ids"] for i in (*ids, tokenizer.eos_token_id)]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **recipe.config,
    )
    return LlamaForCausalLM(config), batches(stream, recipe)


def make_tokenizer(texts: list[str], vocabulary: int) -> Any:
    """Return a byte-level BPE tokenizer with a padding and an end token, and no beginning token."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=PAD)


def batches(stream: list[int], recipe: Recipe) -> Iterator[dict[str, torch.Tensor]]:
    """Yield rows of consecutive tokens, from the beginning again at the end."""
    rows = torch.tensor(stream[: len(stream) // recipe.length * recipe.length]).view(-1, recipe.length)
    at = 0
    while True:
        chosen = torch.arange(at, at + recipe.batch) % len(rows)
        at += recipe.batch
        yield {"input_ids": rows[chosen], "labels": rows[chosen]}
