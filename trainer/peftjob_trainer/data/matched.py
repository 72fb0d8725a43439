"""Rows of Ranking: a query or a history, the item that fits it, and perhaps items that do not. Chosen by `readers`."""

from collections.abc import Callable
from typing import Any, Final

from peftjob_api import PeftJobSpec

from .cells import Layout, columns_for, filled_text_of, strings_in
from .encode import encode_classified
from .rows import Row, Source, malformed
from .types import Encoded, Match

_BETWEEN: Final = ", "
"""Stands between the things of a history."""


def choose_layout(spec: PeftJobSpec, present: list[str], uri: str) -> Layout:
    """Return the columns of query and item, and of negatives if there are any.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`.
    """
    return Layout("matched", columns_for(spec, present, uri, ("query", "item"), "negatives"))


def labels_of(spec: PeftJobSpec, source: Source, layout: Layout) -> list[str] | None:
    """Return None: there are no classes."""
    return None


def encoder(
    spec: PeftJobSpec, layout: Layout, tokenizer: Any, labels: list[str] | None, uri: str
) -> Callable[[Row], Encoded]:
    """Return what makes a sample of a row; of a history that is too long, the earliest things are left out."""
    columns, longest = layout.columns, spec.dataset.max_length

    def of_text(text: str) -> tuple[tuple[int, ...], bool]:
        example, cut = encode_classified(tokenizer, text, 0, longest)
        return example.input_ids, cut

    def of_history(things: list[str]) -> tuple[tuple[int, ...], bool]:
        for start in range(len(things)):
            ids, cut = of_text(_BETWEEN.join(things[start:]))
            if not cut:
                return ids, start > 0
        return ids, True

    def matched(row: Row) -> Encoded:
        query = row.values[columns["query"]]
        if isinstance(query, list):
            history = strings_in(row, columns["query"], "texts or numbers")
            if not history:
                raise malformed(
                    row.where, f"column {columns['query']!r} is an empty list: write a history, or remove the row"
                )
            found = [of_history(history)]
        else:
            found = [of_text(filled_text_of(row, columns["query"]))]
        item = _item_of(row, columns["item"])
        others = strings_in(row, columns["negatives"], "items") if "negatives" in columns else []
        if item in others:
            raise malformed(
                row.where, f"column {columns['negatives']!r} has the item that fits, {item!r}: remove it from the list"
            )
        found += [of_text(text) for text in (item, *others)]
        (ids, *items), cuts = [each for each, _ in found], [cut for _, cut in found]
        return Match(ids, items[0], tuple(items[1:])), any(cuts)

    return matched


def _item_of(row: Row, column: str) -> str:
    """Return a text, or a number as one."""
    value = row.values[column]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else filled_text_of(row, column)
