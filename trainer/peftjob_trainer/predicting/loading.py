"""Brings a published adapter, or a merged model, and its base into the memory of one process. Used by `predict`."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import peftjob_bottleneck
import torch
import transformers
from peft import PeftModel
from peftjob_api import Reason
from peftjob_api.spec import BaseModelSpec, StorageSpec

from ..exits import TrainerError
from ..processors import IMAGE_TASKS, load_image_processor, load_tokenizer, pad_of
from ..sharding.sources import Read, open_source
from ..storage import fetch_adapter, fetch_model
from ..storage.adapters import CONFIG_NAME
from ..storage.uris import parse
from ..storage.weights import RECORD_NAME, Weights
from ..tasks.sequence_classification import named
from ..usage import Usage

log = logging.getLogger(__name__)

_WINDOW_BYTES: Final = 64 * 2**20
_TASKS: Final = {
    "CAUSAL_LM": "CausalLM",
    "SEQ_2_SEQ_LM": "Seq2SeqLM",
    "SEQ_CLS": "SequenceClassification",
    "TOKEN_CLS": "TokenClassification",
}
"""peft's name of a task -> ours."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be used."""

    usage: Usage
    model: Any
    tokenizer: Any
    """Or the image processor."""
    device: torch.device


def load(
    uri: str, base: str | None, storage: StorageSpec, work: Path, auto_classes: dict[str, str], device: torch.device
) -> Loaded:
    """Return the model at a uri.

    Args:
        uri: Of a folder with an adapter, or a merged model.
        base: Uri of the base model, in place of the one that the adapter names.
        storage: How remote ones are reached.
        work: Folder for copies.
        auto_classes: Kind of task -> transformers' class of its models.
        device: Where it goes.

    Raises:
        TrainerError: `ADAPTER_NOT_FOUND`, `ADAPTER_UNSUITABLE`, `BASE_MODEL_NOT_FOUND` or `BASE_MODEL_CORRUPT`, or what
            the storage service says.
    """
    if _is_merged(uri):
        folder = _whole(BaseModelSpec(uri=uri), storage, work / "model")
        usage = Usage.read(folder, uri)
        if usage is None:
            raise TrainerError(
                Reason.ADAPTER_UNSUITABLE, f"{uri}: there is no peftjob.json: use a folder that a PeftJob published"
            )
        model = _from_pretrained(folder, usage, auto_classes, {})
    else:
        adapter = fetch_adapter(uri, storage, work / "adapter", "--adapter")
        usage = Usage.read(adapter, uri) or _of_peft(adapter, uri)
        if base is not None:
            usage = replace(usage, base=base, revision=None)
        folder = _whole(BaseModelSpec(uri=usage.base, revision=usage.revision), storage, work / "base")
        model = _from_pretrained(folder, usage, auto_classes, _head(usage))
        model.config.pad_token_id = pad_of(_processor(usage, folder))
        try:
            model = _adapted(model, adapter)
        except (ValueError, RuntimeError, KeyError) as error:
            raise TrainerError(
                Reason.ADAPTER_UNSUITABLE, f"{uri}: it does not fit {usage.base} ({error}): correct --base"
            ) from error
        folder = adapter if (adapter / "tokenizer_config.json").is_file() else folder
    return Loaded(usage, model.eval().to(device), _processor(usage, folder), device)


def _processor(usage: Usage, folder: Path) -> Any:
    """Return the tokenizer, or the image processor, in a folder."""
    return load_image_processor(folder, usage.base) if usage.task in IMAGE_TASKS else load_tokenizer(folder)


def _adapted(model: Any, folder: Path) -> Any:
    """Return a model with an adapter: ours, of the methods that peft has not, or one of peft's."""
    kind = json.loads((folder / CONFIG_NAME).read_bytes()).get("peft_type")
    if kind in (peftjob_bottleneck.BOTTLENECK, peftjob_bottleneck.BITFIT):
        return peftjob_bottleneck.load(model, folder)
    return PeftModel.from_pretrained(model, str(folder))


def _is_merged(uri: str) -> bool:
    """Tell whether a folder holds a model of its own."""
    location = parse(uri)
    if location.is_local:
        return (location.local / "config.json").is_file() and not (location.local / CONFIG_NAME).is_file()
    return location.path.rpartition("/")[2] == "merged"


def _of_peft(folder: Path, uri: str) -> Usage:
    """Return what can be told of an adapter that peft itself wrote."""
    config = json.loads((folder / CONFIG_NAME).read_bytes())
    task, base = _TASKS.get(str(config.get("task_type"))), str(config.get("base_model_name_or_path") or "")
    if task is None or not base:
        raise TrainerError(
            Reason.ADAPTER_UNSUITABLE,
            f"{uri}: there is no peftjob.json, and {CONFIG_NAME} names no task of {', '.join(_TASKS)} with a base "
            f"model: use an adapter that a PeftJob published",
        )
    labels = folder / "labels.json"
    return Usage(
        task,
        f"file://{Path(base).resolve()}" if Path(base).is_dir() else base if "://" in base else f"hf://{base}",
        revision=config.get("revision"),
        labels=json.loads(labels.read_bytes()) if labels.is_file() else None,
        dtype="auto",
    )


def _head(usage: Usage) -> dict[str, Any]:
    """Return the settings of the config that a head needs, as the model card's snippet has them."""
    if usage.kind == "SequenceClassification/Regression":
        return {"num_labels": 1, "problem_type": "regression"}
    if usage.labels is None:
        return {}
    several = usage.kind == "SequenceClassification/MultiLabel"
    return {**named(usage.labels), **({"problem_type": "multi_label_classification"} if several else {})}


def _from_pretrained(folder: Path, usage: Usage, auto_classes: dict[str, str], settings: dict[str, Any]) -> Any:
    if usage.kind not in auto_classes:
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"predict knows no models of the task {usage.kind}, only of {', '.join(sorted(auto_classes))}: use the "
            f"snippet of the model card",
        )
    try:
        return getattr(transformers, auto_classes[usage.kind]).from_pretrained(folder, dtype=usage.dtype, **settings)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise TrainerError(Reason.INVALID_CONFIG, f"{usage.base}: transformers cannot load it ({error})") from error


def _whole(model: BaseModelSpec, storage: StorageSpec, dest: Path) -> Path:
    """Return a local folder with all of a model; weights that are elsewhere are copied."""
    folder = fetch_model(model, storage, dest)
    weights = Weights.read(folder)
    if weights is None:
        return folder
    source = open_source(folder, model.uri, storage)
    for name, about in weights.files.items():
        log.info("%s/%s: copied, %.1f MB", model.uri, name, about.size / 1e6)
        with (folder / name).open("wb") as file:
            for at in range(0, about.size, _WINDOW_BYTES):
                window = bytearray(min(_WINDOW_BYTES, about.size - at))
                source.read([Read(name, at, memoryview(window), name)])
                file.write(window)
    source.close()
    (folder / RECORD_NAME).unlink()
    return folder
