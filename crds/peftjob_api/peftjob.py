"""The PeftJob resource: metadata that matters, spec, status, and the rules over all of them."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

from .base import Rule, check_rules
from .spec import PeftJobSpec
from .status import PeftJobStatus
from .worker import JobIdentity

NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_MAX_LENGTH = 48

MUTABLE_FIELDS = ("suspend", "maxRestarts", "activeDeadlineSeconds", "ttlSecondsAfterFinished")
"""The spec's fields that may change after `status.startTime` is set (JSON names)."""
IMMUTABLE_FIELDS = (
    "baseModel", "task", "method", "dataset", "training", "workers", "sharding", "checkpoint", "output", "storage",
)  # fmt: skip

NAME_RULES = (
    Rule(
        f"self.metadata.name.size() <= {NAME_MAX_LENGTH}",
        lambda job: len(job.metadata.name) <= NAME_MAX_LENGTH,
        f"metadata.name is longer than {NAME_MAX_LENGTH} characters: shorten it, for names of pods are made from it",
        ".metadata.name",
    ),
    Rule(
        f"self.metadata.name.matches('{NAME_PATTERN}')",
        lambda job: re.fullmatch(NAME_PATTERN, job.metadata.name) is not None,
        "metadata.name becomes a DNS name: use lower-case letters, digits and '-', a letter first, no '-' last",
        ".metadata.name",
    ),
)

TRANSITION_RULES = tuple(
    Rule(
        f"!has(oldSelf.status) || !has(oldSelf.status.startTime) || self.spec.{name} == oldSelf.spec.{name}",
        lambda _: True,  # mirrored by validate_update, which sees both objects
        f"spec.{name} cannot change once the job has started: delete the PeftJob and create it anew",
        f".spec.{name}",
    )
    for name in IMMUTABLE_FIELDS
)


class Metadata(BaseModel):
    """The part of an object's metadata that PeftJob reads."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore")

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class PeftJob(BaseModel):
    """One fine-tuning job: an adapter of a frozen base model, trained by a gang of worker pods."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", frozen=True
    )
    rules: ClassVar[tuple[Rule, ...]] = NAME_RULES

    api_version: Literal["peftjob.io/v1alpha1"] = "peftjob.io/v1alpha1"
    kind: Literal["PeftJob"] = "PeftJob"
    metadata: Metadata
    spec: PeftJobSpec
    status: PeftJobStatus | None = None

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        check_rules(self, self.rules)
        return self

    @property
    def identity(self) -> JobIdentity:
        """Name, namespace and uid."""
        return JobIdentity(namespace=self.metadata.namespace, name=self.metadata.name, uid=self.metadata.uid)


def validate_update(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check a change of a PeftJob as the API server's transition rules do.

    Args:
        old: The object as it was (JSON form, defaults filled in).
        new: The object as it shall be.

    Raises:
        ValueError: Fields of `IMMUTABLE_FIELDS` changed after the job had started; the message names them.
    """
    if not old.get("status", {}).get("startTime"):
        return
    before = PeftJobSpec.model_validate(old["spec"], by_alias=True, by_name=False).to_wire()
    after = PeftJobSpec.model_validate(new["spec"], by_alias=True, by_name=False).to_wire()
    broken = [
        rule.message
        for name, rule in zip(IMMUTABLE_FIELDS, TRANSITION_RULES, strict=True)
        if before.get(name) != after.get(name)
    ]
    if broken:
        raise ValueError("; ".join(broken))
