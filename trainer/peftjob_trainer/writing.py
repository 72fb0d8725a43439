"""Lets the model write, as `training.evaluation.generate` asks for, and judges it. Called by `train.evaluate_split`.

Greedily and in batches that depend on nothing but the data, so that the same adapter writes the same each time. Every
rank takes the same number of batches and, where the base is partitioned, as many forward passes in each as the rank
whose texts are longest: a rank that is done, or has nothing to write, gathers along with the others.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from peftjob_api.training_spec import GenerateSpec
from transformers import GenerationConfig

from .data import IGNORED, Sample
from .evaluate import of_all_ranks
from .order import deal_by_length
from .sharding import Sharded
from .tasks import Task, judge
from .tasks.common import pad_ids

log = logging.getLogger(__name__)

_OF_THE_BASE = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "bad_words_ids", "suppress_tokens")
"""What a base model's own generation config says of its tokens; how it would search is not taken over."""


def evaluate_writing(
    sharded: Sharded,
    task: Task,
    device: torch.device,
    rows: int,
    samples: Sequence[Sample],
    settings: GenerateSpec,
    check: Callable[[], None],
) -> dict[str, float]:
    """Return the metrics of what the model as it is writes for the first samples, the same on all ranks.

    Args:
        sharded: With the model.
        task: One that has prompts, with its tokenizer.
        device: Of this rank.
        rows: Texts that a rank writes at once.
        samples: Of a split.
        settings: `spec.training.evaluation.generate`.
        check: Called before each batch.
    """
    started, before = time.monotonic(), sharded.gathered_bytes()
    prompts = [task.prompt(sample) for sample in samples[: settings.max_samples]]
    ids = write(sharded, task, device, rows, [ids for ids, _ in prompts], settings.max_new_tokens, check)
    texts = [task.tokenizer.decode(written, skip_special_tokens=True) for written in ids]
    log.info(
        "wrote %d texts, the longest of %d tokens, in %.1f s: gathered %.1f MiB of the base",
        len(texts),
        max(map(len, ids)),
        time.monotonic() - started,
        (sharded.gathered_bytes() - before) / 2**20,
    )
    return judge(texts, [wanted for _, wanted in prompts])


@torch.no_grad()
def write(
    sharded: Sharded,
    task: Task,
    device: torch.device,
    rows: int,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    check: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Return the token ids that the model writes for each prompt, with what ends them, the same on all ranks."""
    model = sharded.model
    reads_apart = bool(model.config.is_encoder_decoder)
    settings = generation_config(model, task, tokens)
    lengths = [len(prompt) for prompt in prompts]
    shortest = min(range(len(prompts)), key=lengths.__getitem__)
    found: list[tuple[list[int], torch.Tensor]] = []
    was_training = model.training
    model.eval()
    for own in deal_by_length(lengths, dist.get_rank(), dist.get_world_size(), rows):
        check()
        batch = pad_ids([prompts[i] for i in own or [shortest]], task.pad, on_left=not reads_apart)
        with sharded.autocast():
            output = model.generate(
                **{name: tensor.to(device) for name, tensor in batch.items()},
                generation_config=settings,
                synced_gpus=sharded.is_partitioned,
            )
        new = output[:, 1 if reads_apart else batch["input_ids"].shape[1] :]
        found.append((own, new.double()))
    model.train(was_training)
    table = of_all_ranks(found, len(prompts), device).long().tolist()
    ends = settings.eos_token_id or []
    return [_until(ends, [i for i in row if i != IGNORED]) for row in table]


def generation_config(model: Any, task: Task, tokens: int) -> GenerationConfig:
    """Return how the model writes: always its likeliest next token, up to one of its own ends or the tokenizer's."""
    own = model.generation_config
    found = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = sorted({end for end in (*found, task.tokenizer.eos_token_id) if end is not None})
    kept = {name: getattr(own, name) for name in _OF_THE_BASE if getattr(own, name, None) is not None}
    if getattr(model.config, "decoder_start_token_id", None) is not None:
        kept["decoder_start_token_id"] = model.config.decoder_start_token_id
    return GenerationConfig(
        **kept,
        do_sample=False,
        num_beams=1,
        max_new_tokens=tokens,
        use_cache=True,  # off in training
        eos_token_id=ends or None,
        pad_token_id=task.pad,
    )


def _until(ends: Sequence[int], ids: list[int]) -> list[int]:
    """Return ids up to the first that ends a text, and this one."""
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: stop + 1]
