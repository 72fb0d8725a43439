"""What the jobs train: a random decoder of a few ten thousand parameters, and texts."""

import json
import random
from pathlib import Path

from peftjob_testkit.objects import ObjectStore

from .jobs import DATA, MODELS


def put_inputs(store: ObjectStore, folder: Path) -> None:
    """Write base and texts to a folder, and to the store where the jobs look for them."""
    _write_base(folder / "base")
    store.upload(folder / "base", MODELS, "faults")
    for name, rows, seed in (("train", 64, 3), ("validation", 16, 8)):
        _write_texts(folder / f"{name}.jsonl", rows, seed)
        store.upload(folder / f"{name}.jsonl", DATA, f"faults/{name}.jsonl")


def _write_base(folder: Path) -> None:
    """Write a decoder with one token for each byte of text."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={t: n for n, t in enumerate(["<pad>", "</s>", *alphabet])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>").save_pretrained(folder)


def _write_texts(path: Path, rows: int, seed: int) -> None:
    """Write prompts and completions of 1 to 8 words."""
    chance = random.Random(seed)
    words = ("red", "green", "a", "houses", "on", "winter")
    lines = [
        {
            "prompt": " ".join(chance.choices(words, k=2)),
            "completion": " " + " ".join(chance.choices(words, k=chance.randint(1, 8))),
        }
        for _ in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
