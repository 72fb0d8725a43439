"""A small Llama that continues English sentences and looks things up in what stands before. Called by `bases`.

Half of its rows are sentences from docstrings. The other half are exercises on random words of those: lists that are
said again, and lists of pairs that are then asked for. A large model learns to copy and to look up from text alone; one
that reads a few million tokens only does not, and without it no adapter can use the prompt. No word of the exercises
is taken from a sample.
"""

import random
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
MAX_WORDS = 16
MAX_PAIRS = 8


def prepare(recipe: Recipe, folder: Path) -> tuple[Any, Iterator[dict[str, torch.Tensor]]]:
    """Write the tokenizer; return a model and its batches: `input_ids` and `labels`, int64 (batch, length)."""
    texts = paragraphs(recipe.packages, recipe.seed)
    tokenizer = make_tokenizer(texts, recipe.vocabulary)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **recipe.config,
    )
    return LlamaForCausalLM(config), batches(tokenizer, texts, recipe)


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


def batches(tokenizer: Any, texts: list[str], recipe: Recipe) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of as many rows of sentences, from the beginning again at the end, as of exercises."""
    end = tokenizer.eos_token_id
    stream = [i for ids in tokenizer(texts)["input_ids"] for i in (*ids, end)]
    prose = torch.tensor(stream[: len(stream) // recipe.length * recipe.length]).view(-1, recipe.length)
    drill = exercises(sorted({word for text in texts for word in text.split() if word.isalpha()}), recipe.seed)
    at = 0
    while True:
        chosen = torch.arange(at, at + recipe.batch // 2) % len(prose)
        at += recipe.batch // 2
        practised: list[list[int]] = []
        for _ in range(recipe.batch - len(chosen)):
            row: list[int] = []
            while len(row) < recipe.length:
                row += [*tokenizer(next(drill))["input_ids"], end]
            practised.append(row[: recipe.length])
        rows = torch.cat([prose[chosen], torch.tensor(practised)])
        yield {"input_ids": rows, "labels": rows}


def exercises(words: list[str], seed: int) -> Iterator[str]:
    """Yield, in turn, a list of words that is said twice, and pairs of words that are asked for in another order."""
    chance = random.Random(seed)
    while True:
        listed = " ".join(chance.choices(words, k=chance.randint(2, MAX_WORDS)))
        yield f"{listed}\n{listed}"
        pairs = [f"{chance.choice(words)}: {chance.choice(words)}" for _ in range(chance.randint(2, MAX_PAIRS))]
        yield "; ".join(pairs) + "\n" + "; ".join(chance.sample(pairs, len(pairs)))
