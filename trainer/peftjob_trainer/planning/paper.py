"""The job's model on paper: every module, shape and dtype of the real one, and no data. Used by `estimate`."""

from pathlib import Path
from typing import Any

import torch
from peftjob_api import PeftJobSpec

from ..checkpointing import checkpoint_blocks
from ..methods import method_of, trainable
from ..sharding.skeleton import make_skeleton, matches
from ..tasks import task_of


class Paper:
    """Stands where a task asks for a `Base`, with nothing to load behind it."""

    def __init__(self, folder: Path, uri: str, dtype: torch.dtype) -> None:
        """See `make_skeleton`."""
        self._folder, self._uri, self._dtype = folder, uri, dtype

    def skeleton(self, auto_class: Any, **settings: Any) -> Any:
        """Return the model on the meta device; see `make_skeleton`."""
        return make_skeleton(self._folder, self._uri, self._dtype, auto_class, **settings)


def model_on_paper(spec: PeftJobSpec, folder: Path, dtype: torch.dtype, labels: list[str] | None, pad: int) -> Any:
    """Return the model as `session.load_model` makes it, on the meta device.

    Args:
        spec: Of the job.
        folder: With the base's config.
        dtype: Of the base in memory, unless the model itself keeps a parameter in another.
        labels: Names of the classes; None for CausalLM.
        pad: Token id of padding.

    Raises:
        TrainerError: `INVALID_CONFIG` or `TARGET_MODULES_NOT_FOUND`.
    """
    model, head = task_of(spec, pad, labels).skeleton(Paper(folder, spec.base_model.uri, dtype))
    model.tie_weights(recompute_mapping=False)
    wanted = model._get_dtype_plan(dtype)
    for name, parameter in model.named_parameters():
        own = next((d for pattern, d in wanted.items() if matches(pattern, name)), parameter.dtype)
        parameter.data = parameter.data.to(torch.float32 if name.split(".")[0] in head else own)
    model.config.pad_token_id = pad
    with torch.random.fork_rng(devices=[]):
        model = method_of(spec, head).inject(model)
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()
    if spec.training.gradient_checkpointing:
        checkpoint_blocks(model)
    return model
