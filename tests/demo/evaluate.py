"""Measures a published adapter as a stranger would: plain transformers and peft, nothing of PeftJob.

Usage: evaluate.py --adapter FOLDER --base FOLDER --train CSV --test CSV [--manifest-sha256 HEX]

Checks every file against the adapter's manifest, then prints the accuracy on the test file of (a) always the most
frequent label, (b) a logistic regression on character n-grams, (c) the adapter; as JSON with --json. Exits 1 when the
files differ from the manifest.
"""

import argparse
import csv
import hashlib
import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path

import sentiment_data

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # the base has no classifier of its own, and says so at length
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


class _NothingOfOurs:
    """An import hook that proves that the adapter needs no PeftJob to load."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.startswith("peftjob"):
            raise ImportError(f"{name} must not be needed to use an adapter")


sys.meta_path.insert(0, _NothingOfOurs())


def read(path: Path) -> tuple[list[str], list[str]]:
    """Return the columns text and label of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def check_manifest(folder: Path, want_sha256: str | None) -> int:
    """Compare every file with manifest.json, and that with its own digest; return the number of files."""
    manifest = (folder / "manifest.json").read_bytes()
    if want_sha256 and hashlib.sha256(manifest).hexdigest() != want_sha256:
        sys.exit("manifest.json is not the one that the PeftJob's status names")
    files = json.loads(manifest)["files"]
    for name, entry in files.items():
        data = (folder / name).read_bytes()
        if (hashlib.sha256(data).hexdigest(), len(data)) != (entry["sha256"], entry["sizeBytes"]):
            sys.exit(f"{name} differs from manifest.json")
    return len(files)


def accuracy(predicted: list[str], labels: list[str]) -> float:
    """Return the share of equal elements."""
    return sum(p == want for p, want in zip(predicted, labels, strict=True)) / len(labels)


def with_adapter(folder: Path, base: Path, texts: list[str]) -> list[str]:
    """Return the adapter's label for each text."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    labels = json.loads((folder / "labels.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels), dtype=torch.float32)
    model = PeftModel.from_pretrained(model, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    predicted: list[str] = []
    with torch.no_grad():
        for start in range(0, len(texts), 64):
            batch = tokenizer(texts[start : start + 64], padding=True, truncation=True, return_tensors="pt")
            predicted += [labels[i] for i in model(**batch).logits.argmax(-1).tolist()]
    return predicted


def main() -> None:
    """Measure the three and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("adapter", "base", "train", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--manifest-sha256")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    files = check_manifest(args.adapter, args.manifest_sha256)
    texts, labels = read(args.train)
    test_texts, test_labels = read(args.test)
    majority = Counter(labels).most_common(1)[0][0]
    result = {
        "majority": accuracy([majority] * len(test_labels), test_labels),
        "ngrams": accuracy(sentiment_data.with_ngrams(texts, labels, test_texts), test_labels),
        "adapter": accuracy(with_adapter(args.adapter, args.base, test_texts), test_labels),
    }
    if args.json:
        print(json.dumps({**result, "files": files}))
        return
    print(f"{files} files, each as manifest.json says")
    print(f"accuracy on {len(test_labels)} held-out words, trained on {len(labels)}:")
    print(f"  (a) always '{majority}'                      {result['majority']:.3f}")
    print(f"  (b) logistic regression, character n-grams  {result['ngrams']:.3f}")
    print(f"  (c) the adapter                             {result['adapter']:.3f}")


if __name__ == "__main__":
    main()
