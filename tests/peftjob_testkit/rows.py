"""Rows of data sets, and files of them. Used by the tests of the trainer's data."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet


def lines(*rows: object) -> bytes:
    """Return rows as JSONL; bytes and strings stand for themselves."""
    return b"".join(
        (r if isinstance(r, bytes) else r.encode() if isinstance(r, str) else json.dumps(r).encode()) + b"\n"
        for r in rows
    )


def classified(label: object, text: object = "fine") -> dict[str, object]:
    """Return a row of a text and its label."""
    return {"text": text, "label": label}


def tagged(*tags: object, tokens: object = ("Ann", "left")) -> dict[str, object]:
    """Return a row of words and their tags."""
    return {"tokens": tokens, "tags": tags}


def marked(*spans: object, text: object = "Ann left") -> dict[str, object]:
    """Return a row of a text and its spans."""
    return {"text": text, "spans": spans}


def span(start: object, end: object, label: object = "PER") -> dict[str, object]:
    """Return a span."""
    return {"start": start, "end": end, "label": label}


def answered(chosen: object, rejected: object, prompt: object = "a") -> dict[str, object]:
    """Return a row of a prompt and two answers."""
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def turn(role: str, content: str) -> dict[str, str]:
    """Return a message of a chat."""
    return {"role": role, "content": content}


def parquet(path: Path, **columns: list[Any]) -> bytes:
    """Return a Parquet file."""
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path.read_bytes()
