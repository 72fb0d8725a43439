"""English sentences from the docstrings of installed packages, as the text that a small decoder learns. Pure but for
reading the packages' files."""

import ast
import importlib.metadata
import random
import warnings
from collections.abc import Iterator

MIN_CHARACTERS = 60
PROSE = 0.95
"""The least share of letters, spaces and common marks in a paragraph: no tables, no code."""


def paragraphs(packages: tuple[str, ...], seed: int) -> list[str]:
    """Return the distinct paragraphs of prose of all docstrings but those of tests, in an order of the seed."""
    found = sorted({text for package in packages for text in _of_package(package)})
    random.Random(seed).shuffle(found)
    return found


def is_prose(text: str) -> bool:
    """Tell whether a paragraph is English sentences, by its marks."""
    plain = sum(c.isalpha() or c in " ,.'" for c in text)
    return len(text) >= MIN_CHARACTERS and plain / len(text) >= PROSE and text[0].isupper() and text.endswith(".")


def _of_package(package: str) -> Iterator[str]:
    for file in importlib.metadata.files(package) or []:
        if file.suffix != ".py" or "test" in str(file):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in others' strings
            tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for part in (ast.get_docstring(node) or "").split("\n\n"):
                    text = " ".join(part.split())
                    if is_prose(text):
                        yield text
