"""The translated interface strings of Django: gettext catalogues that its wheel carries, one a language and app."""

import gettext
import importlib.metadata
import unicodedata
from functools import cache
from pathlib import Path

MAX_CHARACTERS = 60
Catalogue = dict[str, str]
"""English string -> its translation."""


@cache
def catalogue(language: str) -> Catalogue:
    """Return a language's strings of all apps; what has several forms, lines or an odd length is left out."""
    found: Catalogue = {}
    for path in files():
        if path.parts[-3] == language:
            with path.open("rb") as opened:
                strings = gettext.GNUTranslations(opened)
            for key, value in strings._catalog.items():  # type: ignore[attr-defined]  # there is no other list of keys
                if isinstance(key, str) and is_plain(key) and is_plain(value):
                    found.setdefault(key.rpartition("\x04")[2], value)
    return found


@cache
def files() -> list[Path]:
    """Return the catalogues of all languages, sorted."""
    found = [file for file in importlib.metadata.files("django") or [] if file.name == "django.mo"]
    return sorted(Path(str(file.locate())) for file in found)


def is_plain(text: str) -> bool:
    """Tell whether a string is one line of words."""
    return 2 <= len(text) <= MAX_CHARACTERS and "\n" not in text and any(c.isalpha() for c in text)


def normalised(text: str) -> str:
    """Return a string without what makes no difference to its meaning: case, marks, spaces."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalpha())
