"""Which item fits a query: vectors of both whose cosine is high, by InfoNCE (van den Oord et al. 2018,
arXiv:1807.03748) over the items of the rows beside it.

The negatives of a query are the other items of its group, which is `training.microBatchSize` rows of the global batch
in their order. One rank computes a group, so that the number of ranks changes nothing; a larger group is harder.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import torch
from peftjob_api import Reason
from peftjob_api.task_spec import RankingTask
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel

from ..data import IGNORED, Match
from ..exits import TrainerError
from ..sharding.skeleton import Skeletons
from .common import TOKEN, Batch, Task, pad_ids
from .shown import Shown, decoded

TOP: Final = 10
"""Items that are looked at of a ranking."""
_QUERIES_AT_ONCE: Final = 1024
"""Whose cosines with all items are there at once."""


class Ranking(Task):
    """See there for the interface. A batch of n samples has n queries, n items and all negatives, in this order."""

    evaluation_batches = 4
    is_grouped: ClassVar[bool] = True

    @property
    def settings(self) -> RankingTask:
        """The task's settings."""
        return self.spec.task.ranking or RankingTask()

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data and without a pooler of its own, and no names: nothing of it is new.

        Raises:
            TrainerError: `INVALID_CONFIG`: transformers has no such model, or it is an encoder-decoder.
        """
        model = base.skeleton(AutoModel)
        if model.config.is_encoder_decoder:
            raise TrainerError(
                Reason.INVALID_CONFIG,
                f"{type(model).__name__} is an encoder-decoder, and Ranking needs one vector for each token of a text: "
                f"use an encoder, such as BERT, or a decoder, such as Llama",
            )
        if hasattr(model, "pooler"):
            model.pooler = None
        model.config.use_cache = False
        return model, []

    def count(self, sample: Match) -> int:
        """Return 1: the loss is divided by rows of the data."""
        return 1

    def collate(self, samples: Sequence[Match]) -> Batch:
        """Return the batch of one group."""
        return self.collate_groups([samples])

    def collate_groups(self, rows: Sequence[Sequence[Match]]) -> Batch:
        """Return the batch of some groups.

        `input_ids` and `attention_mask`, int64 (texts, longest); `labels`, int64 (n): the place of each query's item
        among all items; `candidates`, bool (n, items): whether an item is one of the group's, and not the query's own
        once more.
        """
        samples = [(group, sample) for group, row in enumerate(rows) for sample in row]
        items = [(group, sample.item) for group, sample in samples]
        items += [(group, negative) for group, sample in samples for negative in sample.negatives]
        candidates = [
            [at == own or (group == of and item != sample.item) for at, (of, item) in enumerate(items)]
            for own, (group, sample) in enumerate(samples)
        ]
        return {
            **pad_ids([*(sample.query for _, sample in samples), *(item for _, item in items)], self.pad),
            "labels": torch.arange(len(samples)),
            "candidates": torch.tensor(candidates),
        }

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the queries' losses, and the vectors of each query and its item, fp32 (n, 2 x width)."""
        labels = batch["labels"]
        found = vectors(model, batch["input_ids"], batch["attention_mask"], self.settings.pooling)
        queries, items = found[: len(labels)], found[len(labels) :]
        scores = queries @ items.T / self.settings.temperature
        scores = scores.masked_fill(~batch["candidates"], -torch.inf)
        loss = cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")
        return loss, torch.cat([queries, items[: len(labels)]], 1).detach()

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Match]) -> dict[str, float]:
        """Return `loss`, and of the place of each query's item among all items of the samples: `recallAt10` (the share
        of places up to 10), `ndcgAt10` (1 / log2(1 + place), 0 beyond 10) and `mrr` (1 / place); means of the queries.
        """
        assert predicted is not None
        queries, items = predicted.chunk(2, 1)
        places = places_of(queries, items, [sample.item for sample in samples]).double()
        is_in = (places <= TOP).double()
        return {
            "loss": loss,
            "recallAt10": float(is_in.mean()),
            "ndcgAt10": float((is_in / (1 + places).log2()).mean()),
            "mrr": float((1 / places).mean()),
        }

    def shown(self, sample: Match) -> Shown:
        """Return the tokens of the query, and those of the item and of its negatives."""
        item, *others = (self.tokenizer.decode(ids) for ids in (sample.item, *sample.negatives))
        rather = f", rather than {'; '.join(others)}" if others else ""
        return Shown(decoded(self.tokenizer, sample.query, [False] * len(sample.query)), f"fits {item}{rather}")

    def largest(self, samples: Sequence[Match] | None, limit: int) -> Match:
        """Return a sample with the longest query, the longest item and the most and longest negatives."""
        if samples is None:
            return Match((TOKEN,) * limit, (TOKEN,) * limit)
        most = max(len(sample.negatives) for sample in samples)
        query, item = (max(map(len, texts)) for texts in zip(*((s.query, s.item) for s in samples), strict=True))
        negative = max((len(each) for sample in samples for each in sample.negatives), default=0)
        return Match((TOKEN,) * query, (TOKEN,) * item, ((TOKEN,) * negative,) * most)


def vectors(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return the vectors of texts, fp32 (texts, width), of length 1.

    Args:
        model: From transformers or peft, without a head.
        input_ids: int64 (texts, longest), padded on the right.
        attention_mask: The same.
        pooling: `Mean` or `LastToken`.
    """
    hidden = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
    lengths = attention_mask.sum(1)
    if pooling == "Mean":
        pooled = (hidden * attention_mask[..., None]).sum(1) / lengths[:, None]
    else:
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    return normalize(pooled, dim=1)


def places_of(queries: torch.Tensor, vectors: torch.Tensor, items: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Return the place from 1 of each query's item among all different items, int64 (n); behind those as near.

    Args:
        queries: fp32 (n, width).
        vectors: fp32 (n, width), of the items.
        items: What is equal is one item.
    """
    first = {item: at for at, item in reversed(list(enumerate(items)))}
    catalogue = vectors[list(first.values())]
    column = {item: at for at, item in enumerate(first)}
    own = torch.tensor([column[item] for item in items])
    found = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        scores = queries[start : start + _QUERIES_AT_ONCE] @ catalogue.T
        found.append((scores >= scores.gather(1, own[start : start + _QUERIES_AT_ONCE, None])).sum(1))
    return torch.cat(found)
