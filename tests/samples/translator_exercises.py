"""What the small translator practises beside translating: copies, some changed, and made-up dialects. Called by
`pretrain_translator`.

A model that was never asked to find its place again after a change, for a letter, or for another word in place of one
that it reads, does not learn it from a few hundred examples later.
"""

import math
import random
from dataclasses import dataclass
from typing import Final

from .catalogues import MAX_CHARACTERS

CHANGED: Final = 0.3
"""Share of the letters of half of the copied words that are replaced by any others."""
UNCHANGED: Final = 0.3
"""Share of the copies that are the text as it is."""
REWORDED: Final = 0.12
"""Share of the words that are replaced, and share of those whose endings are, in the other copies."""
ACCENTED: Final = [letter for letter in map(chr, range(0xDF, 0x180)) if letter.islower()]
"""Small letters of Latin-1 Supplement and Latin Extended-A: a byte that no target has is not even copied later."""
RESPELLED: Final = 0.5
"""Share of the copies in which some letters are accented ones throughout, as in a language that was never read."""
TAGS: Final = tuple(f"<{number}>" for number in range(32))
"""Of the dialects."""
DIALECT_WORDS: Final = 100
"""Of the catalogues' words, how many are others in a dialect."""
SPOKEN: Final = 0.6
"""Share of the exercises that are texts in a dialect."""
SAID: Final = 0.4
"""Share of the words of such a text that are the dialect's own."""
Pair = tuple[str, str]
"""What is read, and what is to be written."""


@dataclass(frozen=True)
class Dialect:
    """A made-up one: what is another word in it is so in every text."""

    tag: str
    """Stands before what is read."""
    words: dict[str, str]
    """Those that are others, or have other endings."""
    letters: dict[int, str]
    """Two that are accented ones in all other words."""

    @classmethod
    def made(cls, tag: str, words: list[str], chance: random.Random) -> "Dialect":
        """Make one up from words."""
        own = {}
        for word in chance.sample(words, DIALECT_WORDS):
            other = chance.choice(words)
            own[word] = other if chance.random() < 0.7 else word[: len(word) // 2] + other[-chance.randint(1, 4) :]
        letters = {ord(chance.choice(chance.choice(words)).lower()): chance.choice(ACCENTED) for _ in range(2)}
        return cls(tag, own, letters)

    def pair(self, text: str, chance: random.Random) -> Pair:
        """Return a text, some of whose words have become words of the dialect, and what it is in the dialect."""
        known = list(self.words)
        said = [chance.choice(known) if chance.random() < SAID else word for word in text.split()]
        told = " ".join(self.words.get(word) or word.translate(self.letters) for word in said)
        return self.tag + " ".join(said), told


def dialects_of(words: list[str], chance: random.Random) -> list[Dialect]:
    """Return all, made up from words."""
    return [Dialect.made(tag, words, chance) for tag in TAGS]


def exercise(words: list[str], dialects: list[Dialect], chance: random.Random) -> Pair:
    """Return random words to be said in a dialect, or to be copied, in most cases with changes that nobody foresees."""
    text = some_words(words, chance)
    if chance.random() < SPOKEN:
        return chance.choice(dialects).pair(text, chance)
    if chance.random() < RESPELLED:
        text = respelled(text, chance)
    return text, text if chance.random() < UNCHANGED else reworded(text, words, chance)


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
