"""What a published model is for: `peftjob.json`, which `session` writes beside an adapter and `predict` reads.

The files of transformers and peft say how a model is loaded, but not which column of a row it reads, what its outputs
are called, or whether it answers chats.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from peftjob_api import PeftJobSpec, Reason
from peftjob_api.task_spec import TASK_OF, TaskSpec
from pydantic.alias_generators import to_camel, to_snake

from .exits import TrainerError

USAGE_NAME: Final = "peftjob.json"
_VERSION: Final = 1


@dataclass(frozen=True)
class Usage:
    """How a model is used."""

    task: str
    """`spec.task.type`."""
    base: str
    """`spec.baseModel.uri`."""
    revision: str | None = None
    """Of a base on the hub."""
    labels: Sequence[str] | None = None
    """Of a classifier, in the order of its outputs."""
    chat: bool = False
    """Whether it learned chats, so that a prompt is put into the tokenizer's chat template."""
    max_length: int = 512
    """Tokens of an input of a classifier; longer ones are cut, as in training."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """`spec.dataset.columns`: part -> column, where it has not the part's name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the task, as in `spec.task`."""
    dtype: str = "float32"
    """Of the base in training."""

    @property
    def kind(self) -> str:
        """The task, and what else decides about its outputs: `TaskSpec.kind`."""
        settings = {name: self.settings for name, task in TASK_OF.items() if task == self.task and self.settings}
        return TaskSpec.model_validate({"type": self.task, **settings}).kind

    @classmethod
    def of(cls, spec: PeftJobSpec, labels: Sequence[str] | None, chat: bool, dtype: str) -> "Usage":
        """Return what a job's result is for."""
        settings = {name: value for name, value in spec.task.to_wire().items() if name != "type"}
        return cls(
            task=spec.task.type,
            base=spec.base_model.uri,
            revision=spec.base_model.revision,
            labels=list(labels) if labels is not None else None,
            chat=chat,
            max_length=spec.dataset.max_length,
            columns=spec.dataset.columns.to_wire(),
            settings=next(iter(settings.values()), {}),
            dtype=dtype,
        )

    def write(self, folder: Path) -> None:
        """Write `peftjob.json`."""
        wire = {to_camel(name): value for name, value in asdict(self).items() if value is not None}
        text = json.dumps({"version": _VERSION, **wire}, indent=1, ensure_ascii=False)
        (folder / USAGE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, uri: str) -> "Usage | None":
        """Return what `write` wrote; None: there is none, as of an adapter that peft itself wrote.

        Raises:
            TrainerError: `ADAPTER_UNSUITABLE`: it is no such file, or one of a later version.
        """
        try:
            wire = json.loads((folder / USAGE_NAME).read_bytes())
            version = wire.pop("version")
            if version != _VERSION:
                raise ValueError(f"it has version {version}, this program knows {_VERSION}")
            return cls(**{to_snake(name): value for name, value in wire.items()})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainerError(
                Reason.ADAPTER_UNSUITABLE,
                f"{uri}/{USAGE_NAME}: it cannot be read ({error}): use the program of the version that wrote it, or "
                f"copy it again",
            ) from error
