"""How near written texts are to those that were wanted, by the measures of their fields. Used by `writing`."""

import re
from collections.abc import Sequence


class _Words:
    """Splits into words of any script; rouge-score's own tokenizer knows the letters a to z only."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words in lower case."""
        return re.findall(r"\w+", text.lower())


def judge(written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Return `chrF` and `bleu` (corpus, 0 to 100, by sacrebleu), `rougeL` (mean F1) and `exactMatch`, both 0 to 1.

    White space around a text does not count.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    found, truth = [text.strip() for text in written], [text.strip() for text in wanted]
    rouge = RougeScorer(["rougeL"], tokenizer=_Words())
    each = [rouge.score(theirs, ours)["rougeL"].fmeasure for ours, theirs in zip(found, truth, strict=True)]
    return {
        "chrF": CHRF().corpus_score(found, [truth]).score,
        "bleu": BLEU().corpus_score(found, [truth]).score,
        "rougeL": sum(each) / len(each),
        "exactMatch": sum(a == b for a, b in zip(found, truth, strict=True)) / len(found),
    }
