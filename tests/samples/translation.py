"""Translation of software interface strings: a regional variant and a low-resource pair, from Django's catalogues.

European to Brazilian Portuguese; Upper to Lower Sorbian, which some ten thousand people speak. Each pair of strings
stands under one English string. English strings that are alike but for case, marks and spaces go into the same file,
and no source or target of the training file is in another file. The training file has more rows, made of its own.
"""

import random
from functools import partial
from pathlib import Path
from typing import Final

from .catalogues import MAX_CHARACTERS, catalogue, normalised
from .kit import SPLITS, Row, Sample, chrf, column, nearest, read_jsonl, write_jsonl

SEED = 16
PAIRS: Final = {"translation-regional": ("pt", "pt_BR"), "translation-low-resource": ("hsb", "dsb")}
SHARES = {"validation": 0.1, "test": 0.25}
JOINED = 2
"""How often each row is joined with another."""


def rows(source: str, target: str) -> dict[str, list[Row]]:
    """Return each split's pairs of strings."""
    left, right = catalogue(source), catalogue(target)
    groups: dict[str, list[str]] = {}
    for key in sorted(left.keys() & right.keys()):
        groups.setdefault(normalised(key), []).append(key)
    names = sorted(groups)
    random.Random(SEED).shuffle(names)
    ends = {"test": int(len(names) * SHARES["test"])}
    ends["validation"] = ends["test"] + int(len(names) * SHARES["validation"])
    parts = {"test": names[: ends["test"]], "validation": names[ends["test"] : ends["validation"]]}
    parts["train"] = names[ends["validation"] :]
    found: dict[str, list[Row]] = {}
    taken: dict[str, set[str]] = {"source": set(), "target": set()}
    for split in SPLITS:  # the training file first
        found[split] = []
        mine: dict[str, set[str]] = {"source": set(), "target": set()}
        for key in (key for name in parts[split] for key in groups[name]):
            row = {"source": left[key], "target": right[key]}
            plain = {side: normalised(text) for side, text in row.items()}
            if plain["source"] in mine["source"] or any(plain[side] in taken[side] for side in taken):
                continue
            for side in taken:
                mine[side].add(plain[side])
            found[split].append(row)
        for side in taken:
            taken[side] |= mine[side]
    return found


def enlarged(found: list[Row]) -> list[Row]:
    """Return rows to learn from, and more that are made of them.

    Each target is its own translation: what is in the other language already stays as it is. And rows are joined in
    pairs, by a space, as long as no string is longer than those of the catalogues: what becomes of a word does not
    depend on where it stands.
    """
    known = {row["source"] for row in found}
    same = [{"source": row["target"], "target": row["target"]} for row in found if row["target"] not in known]
    draw, joined = random.Random(SEED), []
    for row in JOINED * found:
        other = draw.choice(found)
        both = {side: f"{row[side]} {other[side]}" for side in row}
        if max(map(len, both.values())) <= MAX_CHARACTERS:
            joined.append(both)
    return [*found, *same, *joined]


def write(folder: Path, *, source: str, target: str) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl with `source` and `target`."""
    for split, found in rows(source, target).items():
        write_jsonl(folder / f"{split}.jsonl", enlarged(found) if split == "train" else found)


def baselines(folder: Path) -> dict[str, list[str]]:
    """Return the sources as they are, and the translations of the nearest known sources."""
    known = read_jsonl(folder / "train.jsonl")
    asked = column("test", "source")(folder)
    memory = nearest([row["source"] for row in known], [row["target"] for row in known], asked)
    return {"copy of the source": asked, "translation memory": memory}


SAMPLES = [
    Sample(
        name=name,
        base="tiny-translator",
        metric="chrF",
        write=partial(write, source=source, target=target),
        questions=column("test", "source"),
        answers=column("test", "target"),
        baselines=baselines,
        score=chrf,
    )
    for name, (source, target) in PAIRS.items()
]
