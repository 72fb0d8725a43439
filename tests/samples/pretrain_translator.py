"""A small T5 that copies, and translates between sister languages when the source names one. Called by `bases`.

Half of its rows are random words of the catalogues, to be written again as they are: that is how it comes to copy words
that it has never seen. The other half are strings of Django's catalogues with `<LANGUAGE>` in front, to be written in
that language. The languages of the samples are in neither.
"""

import random
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import processors
from transformers import T5Config, T5ForConditionalGeneration

from .catalogues import catalogue
from .pretrain_decoder import make_tokenizer
from .recipes import Recipe

FAMILIES: Final = (
    ("es", "es_AR", "es_MX", "es_CO", "es_VE"),
    ("es", "gl", "ca", "ast", "it"),
    ("cs", "sk", "pl"),
    ("hr", "bs", "sl", "sr_Latn"),
    ("nb", "nn", "da", "sv"),
    ("de", "nl", "af", "lb"),
)
MAX_WORDS = 8
Pair = tuple[str, str]


def prepare(recipe: Recipe, folder: Path) -> tuple[Any, Iterator[dict[str, torch.Tensor]]]:
    """Write the tokenizer; return a model and its batches: `input_ids`, `attention_mask`, `labels`."""
    languages = sorted({language for family in FAMILIES for language in family})
    texts = [text for language in languages for text in catalogue(language).values()]
    tokenizer = make_tokenizer(texts, recipe.vocabulary)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<{language}>" for language in languages]})
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end[0]}", pair=None, special_tokens=[end]
    )
    tokenizer.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **recipe.config,
    )
    return T5ForConditionalGeneration(config), batches(tokenizer, texts, recipe)


def batches(tokenizer: Any, texts: list[str], recipe: Recipe) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of as many copies as translations."""
    chance = random.Random(recipe.seed)
    words = sorted({word for text in texts for word in text.split()})
    pairs = translations()
    while True:
        rows: list[Pair] = []
        for _ in range(recipe.batch // 2):
            copied = " ".join(chance.choices(words, k=chance.randint(1, MAX_WORDS)))
            rows += [(copied, copied), chance.choice(pairs)]
        limits = {"truncation": True, "max_length": recipe.length, "padding": True, "return_tensors": "pt"}
        batch = dict(tokenizer([source for source, _ in rows], **limits, return_token_type_ids=False))
        labels = tokenizer([target for _, target in rows], **limits)
        batch["labels"] = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
        yield batch


def translations() -> list[Pair]:
    """Return the pairs of strings between the languages of each family, the target's name before the source."""
    found = []
    for family in FAMILIES:
        for source, target in permutations(family, 2):
            left, right = catalogue(source), catalogue(target)
            found += [(f"<{target}>{left[key]}", right[key]) for key in sorted(left.keys() & right.keys())]
    return found
