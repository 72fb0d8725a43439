"""One text into another, by an encoder-decoder model: each token of the target is predicted from the source and those
before it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from peftjob_api import Reason
from transformers import AutoModelForSeq2SeqLM

from ..data import IGNORED, SourceTarget
from ..exits import TrainerError
from ..sharding.skeleton import Skeletons
from . import cross_entropy
from .common import TOKEN, Batch, Task, pad_ids, pad_labels
from .shown import Shown, decoded


class Seq2SeqLM(Task):
    """See there for the interface."""

    evaluation_batches = 2  # logits come in chunks

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data, and no names, since nothing of it is new.

        Raises:
            TrainerError: `INVALID_CONFIG`: transformers has no such model, or its config does not say what a target
                begins with.
        """
        model = base.skeleton(AutoModelForSeq2SeqLM)
        if getattr(model.config, "decoder_start_token_id", None) is None:
            raise TrainerError(
                Reason.INVALID_CONFIG,
                f"the config of this {type(model).__name__} has no decoder_start_token_id, the token before the first "
                f"of a target: set it in the base model's config.json",
            )
        model.config.use_cache = False
        return model, []

    def count(self, sample: SourceTarget) -> int:
        """Return the number of tokens of the target."""
        return len(sample.target_ids)

    def collate(self, samples: Sequence[SourceTarget]) -> Batch:
        """Return int64 tensors `input_ids` and `attention_mask` (rows, longest source), `labels` (rows, 1 + target).

        Labels are as those of CausalLM: the first place, which is the start token's, has nothing to learn.
        """
        labels = pad_labels([[IGNORED, *sample.target_ids] for sample in samples])
        return {**pad_ids([sample.source_ids for sample in samples], self.pad), "labels": labels}

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the losses of the targets' tokens, and no predictions."""
        labels = batch["labels"]
        decoder = labels.masked_fill(labels == IGNORED, self.pad)
        decoder[:, 0] = model.config.decoder_start_token_id
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return cross_entropy.loss_sum(model, {**inputs, "decoder_input_ids": decoder}, labels), None

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Any]) -> dict[str, float]:
        """Return `loss` and `perplexity`."""
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    def shown(self, sample: SourceTarget) -> Shown:
        """Return the tokens of the source, and those of the target, which are learned."""
        ids = (*sample.source_ids, *sample.target_ids)
        return Shown(decoded(self.tokenizer, ids, (place >= len(sample.source_ids) for place in range(len(ids)))))

    def prompt(self, sample: SourceTarget) -> tuple[Sequence[int], str]:
        """Return the source, and the target as it is in the data."""
        return sample.source_ids, sample.target

    def written(self, sample: SourceTarget, tokens: int) -> SourceTarget:
        """Return a sample with a target of so many tokens."""
        return SourceTarget(sample.source_ids, (TOKEN,) * tokens)

    def largest(self, samples: Sequence[SourceTarget] | None, limit: int) -> SourceTarget:
        """Return a sample with the longest source and the longest target."""
        source = limit if samples is None else max(len(sample.source_ids) for sample in samples)
        target = limit if samples is None else max(len(sample.target_ids) for sample in samples)
        return SourceTarget((TOKEN,) * source, (TOKEN,) * target)
