"""Small random models, a tokenizer of bytes, and data of unequal lengths: what the numerics are measured on."""

import json
import random
import warnings
from pathlib import Path
from typing import Any

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
LABELS = ["negative", "neutral", "positive"]


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer with one token for each byte of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={t: n for n, t in enumerate(["<pad>", "</s>", *alphabet])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>").save_pretrained(folder)


def write_llama(
    folder: Path, *, layers: int = 2, tied: bool = False, spread: float = 0.02, poisonous: str | None = None
) -> None:
    """Write a random decoder whose embeddings are small beside its blocks; that of a poisonous letter is not finite."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        **SIZES,
        num_hidden_layers=layers,
        num_key_value_heads=1,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=tied,
        initializer_range=spread,
    )
    model = LlamaForCausalLM(config)
    write_tokenizer(folder)
    if poisonous is not None:
        from transformers import AutoTokenizer

        (token,) = AutoTokenizer.from_pretrained(folder)(poisonous)["input_ids"][:1]
        model.model.embed_tokens.weight.data[token] = float("inf")
    model.save_pretrained(folder)


def write_gpt2(folder: Path) -> None:
    """Write a random decoder with biases, layer norms and learned positions."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"bos_token_id": None, "eos_token_id": 1}
    config = GPT2Config(
        vocab_size=300, n_embd=32, n_head=2, n_layer=1, n_positions=96, initializer_range=0.1, **dropout, **ends
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    write_tokenizer(folder)


def write_t5(folder: Path, *, spread: float = 1.0) -> None:
    """Write a random encoder-decoder; of a wide spread, what it writes depends on what it reads."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    sizes = {
        "vocab_size": 300,
        "d_model": 32,
        "num_heads": 2,
        "d_kv": 16,
        "d_ff": 64,
        "dropout_rate": 0.0,
        "tie_word_embeddings": False,
        "initializer_factor": spread,
    }
    config = T5Config(**sizes, num_layers=2, feed_forward_proj="gated-gelu", pad_token_id=0, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config)
    model.generation_config.eos_token_id = list(range(1, SIZES["vocab_size"], 11))  # texts end at different lengths
    model.save_pretrained(folder)
    write_tokenizer(folder)


def write_bart(folder: Path) -> None:
    """Write a random encoder-decoder with biases and layer norms."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(1)
    sizes = {"vocab_size": 300, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 96}
    parts = {
        f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("ffn_dim", 64), ("attention_heads", 2))
    }
    ends = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": 1,
    }
    config = BartConfig(**sizes, **parts, **ends, init_std=0.1, dropout=0.0)
    BartForConditionalGeneration(config).save_pretrained(folder)
    write_tokenizer(folder)


def write_bert(folder: Path, *, layers: int = 2, poisoned: bool = False, spread: float = 0.02) -> None:
    """Write a random encoder without a head; a poisoned one has a weight that is not finite."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertModel(BertConfig(**SIZES, **dropout, num_hidden_layers=layers, initializer_range=spread))
    if poisoned:
        model.encoder.layer[0].output.dense.weight.data[0, 0] = float("inf")
    model.save_pretrained(folder)
    write_tokenizer(folder)


def write_vit(folder: Path, *, layers: int = 2, spread: float = 0.02) -> None:
    """Write a random encoder of images of 16 x 16 pixels in four patches, without a head, and its image processor."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(1)
    sizes = {**SIZES, "image_size": 16, "patch_size": 8, "num_hidden_layers": layers, "initializer_range": spread}
    sizes.pop("vocab_size")
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ViTModel(ViTConfig(**sizes, **dropout), add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)


def write_adapter(folder: Path, base: Path) -> None:
    """Write an adapter of a classifier as plain peft does it, with random numbers everywhere."""
    import peft
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(LABELS))
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="SEQ_CLS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that this deprecates
        adapted = peft.get_peft_model(model, config)
    torch.manual_seed(6)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(str(folder))


def words(chance: random.Random, count: int) -> str:
    """Return some words."""
    return " ".join(chance.choice(["red", "green", "a", "houses", "on", "winter"]) for _ in range(count))


def write_completions(path: Path, rows: int, seed: int = 3) -> None:
    """Write prompts and completions; the completions have 1 to 12 words."""
    chance = random.Random(seed)
    lines = [
        {"prompt": words(chance, 2), "completion": " " + words(chance, chance.randint(1, 12))} for _ in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_translations(path: Path, rows: int) -> None:
    """Write sources of 1 to 6 words, and the same in upper case."""
    chance = random.Random(8)
    sources = [words(chance, chance.randint(1, 6)) for _ in range(rows)]
    path.write_text("".join(json.dumps({"source": s, "target": s.upper()}) + "\n" for s in sources))


def write_preferences(path: Path, rows: int, seed: int = 9) -> None:
    """Write prompts with two answers of 1 to 6 words; the chosen one ends in green, of which the other has none."""
    chance = random.Random(seed)
    lines = []
    for _ in range(rows):
        chosen, rejected = (f" {words(chance, chance.randint(1, 5))}" for _ in range(2))
        rejected = f"{rejected.replace('green', 'red')} on"
        lines.append({"prompt": words(chance, 2), "chosen": f"{chosen} green", "rejected": rejected})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_matches(path: Path, rows: int, seed: int = 11) -> None:
    """Write queries of 1 to 5 words with the item of their first word and number of words, some with a negative."""
    chance = random.Random(seed)
    lines = []
    for _ in range(rows):
        query = words(chance, chance.randint(1, 5))
        item, other = (f"{query.split()[0].upper()} {len(query.split()) + more}" for more in (0, 1))
        lines.append({"query": query, "item": item, "negatives": [other] * chance.randint(0, 1)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_classified(path: Path, rows: int, seed: int = 4) -> None:
    """Write texts of 1 to 9 words; how often the first word is red tells the label."""
    chance = random.Random(seed)
    lines = []
    for _ in range(rows):
        label = chance.randrange(len(LABELS))
        text = " ".join(["red"] * (3 * label) + [words(chance, chance.randint(1, 4))])
        lines.append({"text": text, "label": LABELS[label]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_labelled(path: Path, rows: int, seed: int = 6) -> None:
    """Write texts with every label that is due, which may be none, and with a number."""
    chance = random.Random(seed)
    lines = []
    for _ in range(rows):
        text = words(chance, chance.randint(1, 6))
        labels = [label for label, word in zip(LABELS, ("red", "green", "winter"), strict=True) if word in text]
        lines.append({"text": text, "labels": labels, "number": len(text) / 10 - 1})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_tagged(path: Path, rows: int, seed: int = 7) -> None:
    """Write words with tags: a colour before houses is a name, of houses or of one house."""
    chance = random.Random(seed)
    lines = []
    for _ in range(rows):
        tokens = words(chance, chance.randint(1, 8)).split()
        tags = ["B-COLOUR" if word in ("red", "green") else "O" for word in tokens]
        tags = ["I-COLOUR" if w == "houses" and t != "O" else tag
                for tag, w, t in zip(tags, tokens, ["O", *tags], strict=False)]  # fmt: skip
        lines.append({"tokens": tokens, "tags": tags})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_pictures(path: Path, rows: int, seed: int = 9) -> None:
    """Write images of unequal sizes; which part of one is bright, on a dark and noisy ground, tells the label."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(seed)
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    lines = []
    for row in range(rows):
        label, size = int(chance.integers(len(LABELS))), int(chance.integers(12, 21))
        pixels = chance.integers(0, 60, (size, size, 3), dtype=np.uint8)
        third = size // len(LABELS)
        pixels[:, label * third : (label + 1) * third] += 180
        Image.fromarray(pixels).save(folder / f"{row}.png")
        lines.append({"image": f"{folder.name}/{row}.png", "label": LABELS[label]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def job(folder: Path, *, model: str, train: str, kind: str, **spec: Any) -> dict[str, Any]:
    """Return a PeftJob on files of a folder; `training` and `dataset` are merged, other fields of the spec replaced."""
    task: dict[str, Any] = {"type": kind}
    if kind == "SequenceClassification":
        task["sequenceClassification"] = {"labels": LABELS}
    if kind == "ImageClassification":  # as they are, for a comparison with what augments nothing
        task["imageClassification"] = {"labels": LABELS, "augmentation": {"minCropArea": 1}}
    training = {"precision": "FP32", "batchSize": 16, "learningRate": 1e-3, "maxSteps": 20, "logEverySteps": 1}
    body = {
        "baseModel": {"uri": f"file://{folder}/{model}"},
        "task": task,
        "method": {"type": "LoRA", "lora": {"rank": 4, "alpha": 8}},
        "dataset": {"train": f"file://{folder}/{train}", "maxLength": 64, **spec.pop("dataset", {})},
        "training": {**training, **spec.pop("training", {})},
        "workers": {"processesPerNode": 2},
        "sharding": "Full",
        "output": {"uri": f"file://{folder}/out"},
        **spec,
    }
    return {"apiVersion": "peftjob.io/v1alpha1", "kind": "PeftJob", "metadata": {"name": "tiny"}, "spec": body}
