"""A small BART over bytes that copies, and translates between sister languages when the source names one. Called by
`bases`.

A model that has read as much as T5 copies words that it has never seen. One that reads for minutes does not learn it
by itself, so this one is born able to: see `begin_copying`. Half of its rows are then exercises on random words and
letters of the catalogues: `translator_exercises`. The other half are strings of Django's catalogues with `<LANGUAGE>`
in front, to be written in that language. The languages of the samples are in neither.
"""

import random
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import processors
from transformers import BartConfig, BartForConditionalGeneration

from .catalogues import catalogue
from .pretrain_decoder import make_tokenizer
from .recipes import Recipe
from .translator_exercises import TAGS, Pair, dialects_of, exercise

FAMILIES: Final = (
    ("es", "es_AR", "es_MX", "es_CO", "es_VE"),
    ("es", "gl", "ca", "ast", "it"),
    ("cs", "sk", "pl"),
    ("hr", "bs", "sl", "sr_Latn"),
    ("nb", "nn", "da", "sv"),
    ("de", "nl", "af", "lb"),
)


def prepare(recipe: Recipe, folder: Path) -> tuple[Any, Iterator[dict[str, torch.Tensor]]]:
    """Write the tokenizer; return a model and its batches: `input_ids`, `attention_mask`, `labels`."""
    languages = sorted({language for family in FAMILIES for language in family})
    texts = [text for language in languages for text in catalogue(language).values()]
    tokenizer = make_tokenizer(texts, recipe.vocabulary)
    tokenizer.add_special_tokens({"additional_special_tokens": [*(f"<{language}>" for language in languages), *TAGS]})
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end[0]}", pair=None, special_tokens=[end]
    )
    tokenizer.model_max_length = recipe.config["max_position_embeddings"]
    tokenizer.save_pretrained(folder)
    config = BartConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        attn_implementation="eager",  # on a CPU in bfloat16 it is faster than SDPA
        **recipe.config,
    )
    model = BartForConditionalGeneration(config)
    begin_copying(model)
    return model, batches(tokenizer, texts, recipe)


@torch.no_grad()
def begin_copying(model: Any) -> None:
    """Set a new BART's weights so that each place of the output attends to the same place of the input and writes it.

    Places are sinusoids (Vaswani et al. 2017), the same for input and output, of frequencies that tell neighbours apart
    in every head, and weigh more than tokens. In the decoder's attention to the encoder all four matrices begin near
    multiples of the identity (as Trockman and Kolter 2023, arXiv:2305.09828, begin self-attention): the likest place is
    looked up, and what stands there outweighs the token before.
    """
    width, heads = model.config.d_model, model.config.decoder_attention_heads
    frequencies = torch.linspace(0.02, 3.0, width // 2).view(-1, heads).T.reshape(-1)  # each head has its share of all
    for side in (model.model.encoder, model.model.decoder):
        weight = side.embed_positions.weight
        angles = torch.arange(len(weight))[:, None] * frequencies
        weight[:, 0::2], weight[:, 1::2] = 0.1 * angles.sin(), 0.1 * angles.cos()
    model.model.shared.weight.normal_(std=0.05)
    for layer in model.model.decoder.layers:
        attention = layer.encoder_attn
        for matrix in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
            matrix.weight.normal_(std=0.02).add_(2.0 * torch.eye(width))


def batches(tokenizer: Any, texts: list[str], recipe: Recipe) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of as many exercises as translations; rows of one batch are about as long."""
    chance = random.Random(recipe.seed)
    words = sorted({word for text in texts for word in text.split()})
    pairs = translations()
    dialects = dialects_of(words, chance)
    while True:
        rows: list[Pair] = []
        for _ in range(recipe.batch * 2):
            rows += [exercise(words, dialects, chance), chance.choice(pairs)]
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[begin : begin + recipe.batch] for begin in range(0, len(rows), recipe.batch)]
        for group in chance.sample(groups, len(groups)):
            limits = {"truncation": True, "max_length": recipe.length, "padding": True, "return_tensors": "pt"}
            batch = dict(tokenizer([source for source, _ in group], **limits, return_token_type_ids=False))
            labels = tokenizer([target for _, target in group], **limits)
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
