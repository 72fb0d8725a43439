"""An adapter to continue from (`method.initFrom`): read, checked against the job, put in place of new parameters.

Called by `session`: `read` before the ranks meet, `adopt` once the method is in the model, before any weight of the
base is read. Each rank reads its node's files; that all see the same ones is made sure of by their digest.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from peftjob_api import Reason
from safetensors import SafetensorError
from safetensors.torch import load_file

from .exits import TrainerError
from .methods import Method, trainable
from .model_card import LABELS_NAME
from .storage.adapters import CONFIG_NAME, WEIGHTS_NAME, sha256

log = logging.getLogger(__name__)

FIELD: Final = "spec.method.initFrom"
_MAX_SHOWN: Final = 3
_NOT_COMPARED: Final = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config",
        "task_type",
        # What names and shapes of the tensors tell.
        "bias", "exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save", "target_modules",
        "target_parameters", "trainable_token_indices",
        # What only new parameters, or only training, depend on.
        "deltaT", "init_lora_weights", "init_weights", "loftq_config", "lora_ga_config", "megatron_config",
        "megatron_core", "orth_reg_weight", "beta1", "beta2", "tfinal", "tinit", "total_step",
        "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path",
    }
)  # fmt: skip
"""Fields of peft's configs; those that end in `dropout` neither."""
_SETTINGS: Final = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rsLoRA", "use_dora": "dora"}
"""peft's name of a setting -> the API's, where they differ."""


@dataclass(frozen=True)
class Initial:
    """An adapter on this machine."""

    uri: str
    config: Mapping[str, Any]
    """Of peft's `adapter_config.json`."""
    tensors: Mapping[str, torch.Tensor]
    labels: Sequence[str] | None
    """Of a classifier that a PeftJob trained."""
    digest: str
    """sha256 of its weights file."""


def read(folder: Path, uri: str) -> Initial:
    """Read an adapter.

    Raises:
        TrainerError: `ADAPTER_UNSUITABLE`: its files cannot be read.
    """
    try:
        config = json.loads((folder / CONFIG_NAME).read_bytes())
        tensors = load_file(folder / WEIGHTS_NAME)
        labels = folder / LABELS_NAME
        known = json.loads(labels.read_bytes()) if labels.is_file() else None
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG_NAME} holds no JSON object")
    except (ValueError, OSError, SafetensorError) as error:
        raise _unsuitable(uri, f"it cannot be read ({error})", "copy it again") from error
    return Initial(uri, config, tensors, known, sha256(folder / WEIGHTS_NAME))


def check_labels(initial: Initial, labels: Sequence[str] | None) -> None:
    """Make sure that the outputs of the adapter's head mean what they mean in this job.

    Raises:
        TrainerError: `ADAPTER_UNSUITABLE`.
    """
    if initial.labels is not None and labels is not None and list(initial.labels) != list(labels):
        raise _unsuitable(
            initial.uri,
            f"its labels are {', '.join(initial.labels)}, this job's {', '.join(labels)}",
            "list the same labels in the same order in spec.task",
        )


def adopt(initial: Initial, method: Method, model: Any) -> None:
    """Put the adapter's values in place of a model's new parameters.

    Args:
        initial: From `read`.
        method: Of the job.
        model: From `method.inject`; the base in it needs no values yet.

    Raises:
        TrainerError: `ADAPTER_UNSUITABLE`, naming the setting, tensor or shape that differs.
    """
    config = model.peft_config["default"].to_dict() if hasattr(model, "peft_config") else {}
    different = differences(initial.config, config)
    if different:
        raise _unsuitable(initial.uri, "; ".join(different), "set spec.method to the adapter's settings")
    own = {name: tuple(tensor.shape) for name, tensor in method.state(model).items()}
    wrong = misfits({name: tuple(tensor.shape) for name, tensor in initial.tensors.items()}, own)
    if wrong:
        raise _unsuitable(
            initial.uri, "; ".join(wrong), "use the base model, target modules and shapes that it was trained with"
        )
    trained = trainable(model)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.fill_(math.nan)
        method.load(model, dict(initial.tensors))
    unset = [name for name, parameter in trained.items() if not bool(parameter.isfinite().all())]
    if unset:
        raise _unsuitable(
            initial.uri,
            f"it has no finite values for {_some(unset)}, which {method.spec.method.type} trains but does not publish, "
            f"or its own are broken",
            "start from new parameters",
        )
    log.info("%s: continued from it, sha256 of its weights %s", initial.uri, initial.digest)


def agree(initial: Initial, device: torch.device) -> None:
    """Make sure that all ranks read the same adapter; collective.

    Raises:
        TrainerError: `ADAPTER_UNSUITABLE`.
    """
    own = int(initial.digest[:15], 16)
    extremes = torch.tensor([own, -own], device=device)
    dist.all_reduce(extremes, op=dist.ReduceOp.MIN)
    if extremes.tolist() != [own, -own]:
        raise _unsuitable(
            initial.uri, "nodes hold different versions of it, or it was replaced while the job started", "start again"
        )


def differences(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Return in words which settings of two of peft's configs differ that give the same tensors another meaning."""
    found = []
    for name in sorted(theirs.keys() & own.keys()):
        if name in _NOT_COMPARED or name.endswith("dropout"):
            continue
        if _plain(theirs[name]) != _plain(own[name]):
            found.append(f"its {_SETTINGS.get(name, name)} is {theirs[name]}, this job's {_plain(own[name])}")
    # Of another method all else differs too.
    return next(([each] for each in found if each.startswith("its peft_type")), found)


def misfits(theirs: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return in words how an adapter's tensors (name -> shape) differ from those that the job would publish."""
    lacking, extra = sorted(own.keys() - theirs.keys()), sorted(theirs.keys() - own.keys())
    shapes = [
        f"its {name} has shape {list(theirs[name])}, this job's {list(shape)}"
        for name, shape in own.items()
        if name in theirs and theirs[name] != shape
    ]
    return [
        *([f"it lacks {_some(lacking)}"] if lacking else []),
        *([f"it also holds {_some(extra)}"] if extra else []),
        *shapes[:_MAX_SHOWN],
    ]


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it; what is empty is absent."""
    value = json.loads(json.dumps(value, default=lambda v: sorted(v) if isinstance(v, set) else str(v)))
    return value or None if isinstance(value, dict | list) else value


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_SHOWN]) + (f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else "")


def _unsuitable(uri: str, why: str, fix: str) -> TrainerError:
    return TrainerError(Reason.ADAPTER_UNSUITABLE, f"{uri}: {why}: {fix}, or correct {FIELD}")
