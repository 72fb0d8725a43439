"""Adapters in files: `adapter_model.safetensors`, tensors by their names in the model, and `adapter_config.json`.

The config's `peft_type` is none that peft knows, so that peft refuses it, saying so.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from .inject import Settings, inject

BOTTLENECK: Final = "PEFTJOB_BOTTLENECK"
BITFIT: Final = "PEFTJOB_BITFIT"
"""Values of `peft_type`."""
VERSION: Final = 1
"""Of the layout."""
_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


def save(
    folder: Path,
    kind: str,
    tensors: Mapping[str, torch.Tensor],
    settings: Settings | None,
    base: str,
    revision: str | None,
) -> None:
    """Write an adapter.

    Args:
        folder: That exists.
        kind: `BOTTLENECK` or `BITFIT`.
        tensors: What was trained, by name in the model.
        settings: Of bottleneck layers; None for `BITFIT`.
        base: Name or path of the base model.
        revision: Of the base model.
    """
    config = {
        "peft_type": kind,
        "version": VERSION,
        "base_model_name_or_path": base,
        "revision": revision,
        **({"bottleneck": asdict(settings)} if settings else {}),
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, folder / _TENSORS, {"format": "pt"})


@torch.no_grad()
def load(model: Any, folder: str | Path) -> Any:
    """Put an adapter into a base model from transformers, in the model's dtype, and return it.

    Args:
        model: Made for the adapter's task (a classifier with as many labels).
        folder: Local, with the adapter.

    Raises:
        ValueError: It is no adapter of this package, of a later version, or of another base model.
    """
    folder = Path(folder)
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    if config["peft_type"] not in (BOTTLENECK, BITFIT):
        raise ValueError(f"{folder}: peft_type {config['peft_type']}: load it by peft")
    if config["version"] > VERSION:
        raise ValueError(f"{folder}: layout {config['version']} is later than {VERSION}: use a later PeftJob")
    if config["peft_type"] == BOTTLENECK:
        inject(model, Settings(**config["bottleneck"]))
    own = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in load_file(folder / _TENSORS).items():
        if name not in own or own[name].shape != tensor.shape:
            raise ValueError(f"{folder}: {name} {list(tensor.shape)} is not in {type(model).__name__}: another base")
        own[name].copy_(tensor)
    adapters = [parameter for name, parameter in own.items() if ".bottleneck." in name]
    for parameter in adapters:
        parameter.data = parameter.data.to(model.dtype)
    return model.eval()
