"""A small BART over bytes that copies, and translates between sister languages when the source names one. Called by
`bases`.

A model that has read as much as T5 copies words that it has never seen. One that reads for minutes does not learn it by
itself, so this one is born able to: see `begin_copying`. Half of its rows are then random words and letters of the
catalogues, to be written again, as they are or with some words changed by chance: what cannot be foreseen is not
learned, but finding the place again after it is. Half of these are spelled with accents that those languages need not
have, since a model that was never asked for a letter unlearns to copy it. The other half are strings of Django's
catalogues with `<LANGUAGE>` in front, to be written in that language. The languages of the samples are in neither.
"""

import math
import random
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import processors
from transformers import BartConfig, BartForConditionalGeneration

from .catalogues import MAX_CHARACTERS, catalogue
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
CHANGED: Final = 0.3
"""Share of the letters of half of the copied words that are replaced by any others."""
REWORDED: Final = 0.12
"""Share of the words that are replaced, and share of those whose endings are, in most copies."""
ACCENTED: Final = [letter for letter in map(chr, range(0xDF, 0x180)) if letter.islower()]
"""Small letters of Latin-1 Supplement and Latin Extended-A: a byte that no target has is not even copied later."""
RESPELLED: Final = 0.5
"""Share of the copies in which some letters are accented ones throughout, as in a language that was never read."""
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
    tokenizer.model_max_length = recipe.config["max_position_embeddings"]
    tokenizer.save_pretrained(folder)
    config = BartConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        attn_implementation="eager",  # on a CPU in bfloat16 a step takes a third of the time that it takes with SDPA
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
    """Yield batches of as many copies as translations; rows of one batch are about as long."""
    chance = random.Random(recipe.seed)
    words = sorted({word for text in texts for word in text.split()})
    pairs = translations()
    while True:
        rows: list[Pair] = []
        for _ in range(recipe.batch * 2):
            copied = some_words(words, chance)
            if chance.random() < RESPELLED:
                copied = respelled(copied, chance)
            told = copied if chance.random() < 0.3 else reworded(copied, words, chance)
            rows += [(copied, told), chance.choice(pairs)]
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[begin : begin + recipe.batch] for begin in range(0, len(rows), recipe.batch)]
        for group in chance.sample(groups, len(groups)):
            limits = {"truncation": True, "max_length": recipe.length, "padding": True, "return_tensors": "pt"}
            batch = dict(tokenizer([source for source, _ in group], **limits, return_token_type_ids=False))
            labels = tokenizer([target for _, target in group], **limits)
            batch["labels"] = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
            yield batch


def some_words(words: list[str], chance: random.Random) -> str:
    """Return words with spaces between, up to a random length, half of them with some letters of others."""
    length = math.ceil(MAX_CHARACTERS * chance.random())
    found = ""
    while len(found) < length:
        letters = list(chance.choice(words))
        if chance.random() < 0.5:
            letters = [any_letter(words, chance) if chance.random() < CHANGED else a for a in letters]
        found += ("" if not found else " ") + "".join(letters)
    return found[:length].strip() or chance.choice(words)


def any_letter(words: list[str], chance: random.Random) -> str:
    """Return as often a letter of the words as an accented one."""
    return chance.choice(ACCENTED if chance.random() < 0.5 else chance.choice(words))


def respelled(text: str, chance: random.Random) -> str:
    """Return a text in which one to three letters are accented ones throughout, capitals as capitals."""
    letters = sorted({letter for letter in text.lower() if letter.isalpha()})
    chosen = chance.sample(letters, min(len(letters), chance.randint(1, 3)))
    told = {letter: chance.choice(ACCENTED) for letter in chosen}
    capitals = {letter.upper(): other.upper() for letter, other in told.items() if len(letter.upper()) == 1}
    return text.translate({ord(letter): other for letter, other in {**told, **capitals}.items()})


def reworded(text: str, words: list[str], chance: random.Random) -> str:
    """Return a text in which some words are others, and some endings cut off or lengthened, so that places shift."""
    told = []
    for word in text.split():
        drawn = chance.random()
        if drawn < REWORDED:
            told.append(chance.choice(words))
        elif drawn < 2 * REWORDED:
            cut = chance.randint(0, len(word))
            told.append(word[:cut] + chance.choice(words)[-chance.randint(1, 3) :])
        else:
            told.append(word)
    return " ".join(told)


def translations() -> list[Pair]:
    """Return the pairs of strings between the languages of each family, the target's name before the source."""
    found = []
    for family in FAMILIES:
        for source, target in permutations(family, 2):
            left, right = catalogue(source), catalogue(target)
            found += [(f"<{target}>{left[key]}", right[key]) for key in sorted(left.keys() & right.keys())]
    return found
