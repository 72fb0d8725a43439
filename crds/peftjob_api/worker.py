"""What worker pods and the operator say to each other: the run config in, progress and a result out.

The operator writes `RunConfig` into a ConfigMap and pulls `WorkerStatus` from rank 0 (`GET :8080/status`); the
launcher of each pod leaves a `TerminationMessage`. Nothing here is trusted by its reader: sizes are bounded, unknown
fields are ignored (an older operator may meet a newer trainer), and a number that is not finite means absent.
"""

import json
import math
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from .base import ApiModel
from .constants import TERMINATION_MAX_BYTES
from .spec import PeftJobSpec

STATUS_MAX_BYTES = 16 * 1024
MESSAGE_MAX_LENGTH = 2048
REASON_MAX_LENGTH = 256
"""Of why a row was skipped."""
REASONS_MAX_ITEMS = 3


def _finite(value: Any) -> Any:
    """Turn a number that is not finite into None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_finite(value: Any) -> bool:
    """Say whether something is a number that fits a float: JSON bounds neither its size nor its digits."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _finite_values(value: Any) -> Any:
    """Drop what is no finite number from a mapping of metrics."""
    return {k: v for k, v in value.items() if _is_finite(v)} if isinstance(value, dict) else value


def _sayable(value: Any) -> Any:
    """Cut a message to its bound, and replace what UTF-8 cannot say, such as bytes of a file's name."""
    return value.encode(errors="replace").decode()[:MESSAGE_MAX_LENGTH] if isinstance(value, str) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Count = Annotated[int | None, Field(ge=0, le=2**62), BeforeValidator(_finite)]
Metrics = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], float],
    Field(max_length=32),
    BeforeValidator(_finite_values),
]


class WireModel(BaseModel):
    """Base of what workers send: camel case, lenient."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form: camel case, absent instead of null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class JobIdentity(ApiModel):
    """Whose gang this is. The uid tells a PeftJob from a later one of the same name."""

    namespace: str
    name: str
    uid: str


class RunConfig(ApiModel):
    """What a worker pod reads at `RUN_CONFIG_PATH`: the same for every attempt of one PeftJob.

    The spec is there with all defaults filled in, less what only concerns the operator (`OPERATOR_FIELDS`), so that
    a change of those never changes the ConfigMap.
    """

    job: JobIdentity
    spec: PeftJobSpec

    OPERATOR_FIELDS: ClassVar[frozenset[str]] = frozenset(
        {"suspend", "max_restarts", "active_deadline_seconds", "ttl_seconds_after_finished"}
    )

    @classmethod
    def of(cls, job: JobIdentity, spec: PeftJobSpec) -> "RunConfig":
        """Return the config of a PeftJob, with the operator's own fields at their defaults."""
        kept = {k: getattr(spec, k) for k in PeftJobSpec.model_fields if k not in cls.OPERATOR_FIELDS}
        return cls(job=job, spec=PeftJobSpec.model_construct(**kept))

    def to_json(self) -> str:
        """Return the text of the ConfigMap's key, stable for equal configs."""
        wire = self.to_wire()
        return json.dumps(wire, indent=1, sort_keys=True)


class PlanInfo(WireModel):
    """How the base model lies on the ranks."""

    shard_group: Annotated[str, StringConstraints(max_length=32)]
    """shardGroup among whose ranks the frozen base is partitioned: `Replicate` (none), `Node` (those of a node),
    `Nodes` (those of several), `Full` (all of the job)."""
    shard_ranks: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """shardRanks is the number of ranks that hold one copy of the base together."""
    ranks: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """ranks in all."""
    base_parameters: Annotated[int, Field(ge=0, le=2**62)]
    """baseParameters is the number of frozen parameters."""
    base_bytes_per_rank: Annotated[int, Field(ge=0, le=2**62)]
    """baseBytesPerRank is what each rank holds of the frozen base, in bytes."""
    trainable_parameters: Annotated[int, Field(ge=0, le=2**62)]
    """trainableParameters is the number of trained parameters, whole and fp32 on every rank."""
    peak_bytes_per_rank: Annotated[int, Field(ge=0, le=2**62)] | None = None
    """peakBytesPerRank is the most memory that a rank is expected to need, in bytes."""
    memory_bytes_per_rank: Annotated[int, Field(ge=0, le=2**62)] | None = None
    """memoryBytesPerRank is the memory that a rank can have: of its accelerator, or its share of the pod's."""


class ResolvedInfo(WireModel):
    """What is trained by, with what the spec leaves open filled in."""

    method: Annotated[str, StringConstraints(max_length=64)]
    """method that adapts the base model."""
    rank: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """rank of the method's matrices, where it has one."""
    precision: Annotated[str, StringConstraints(max_length=16)]
    """precision of the frozen model and the computation."""
    max_length: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """maxLength in tokens after which an example is cut."""
    batch_size: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """batchSize of each step, over all workers."""
    micro_batch_size: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """microBatchSize of each device, at most."""
    learning_rate: float
    """learningRate at its peak."""
    epochs: float | None = None
    """epochs over the training data."""
    max_steps: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """maxSteps, instead of epochs."""
    metric: Annotated[str, StringConstraints(max_length=64)] | None = None
    """metric of the validation data, where there is some, that chooses the step whose adapter is published."""


class CheckpointInfo(WireModel):
    """What the next gang of workers goes on from."""

    step: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """step after which it was taken."""
    uri: Annotated[str, StringConstraints(max_length=640)]
    """uri of the folder that holds it."""


class DataInfo(WireModel):
    """What the data came to."""

    train_examples: Annotated[int, Field(ge=0, le=2**62)]
    """trainExamples is the number of examples that are trained on."""
    validation_examples: Annotated[int, Field(ge=0, le=2**62)] | None = None
    """validationExamples is the number of validation examples."""
    test_examples: Annotated[int, Field(ge=0, le=2**62)] | None = None
    """testExamples is the number of test examples."""
    truncated_examples: Annotated[int, Field(ge=0, le=2**62)]
    """truncatedExamples were cut to maxLength."""
    skipped_rows: Annotated[int, Field(ge=0, le=2**62)]
    """skippedRows were left out because they are bad, as `dataset.onBadRow: Skip` asks for."""
    skipped_reasons: (
        Annotated[
            list[Annotated[str, StringConstraints(max_length=REASON_MAX_LENGTH), BeforeValidator(_sayable)]],
            Field(max_length=REASONS_MAX_ITEMS),
        ]
        | None
    ) = None
    """skippedReasons say of the first of these where each is and what is wrong."""


class WaitingInfo(WireModel):
    """What waits for the output's store, which fails."""

    what: Literal["Checkpoints", "Adapter"]
    since: Number = None
    """Unix time in seconds, by the worker's clock."""
    message: Annotated[str, StringConstraints(max_length=MESSAGE_MAX_LENGTH), BeforeValidator(_sayable)]
    """Of the last error."""


class AdapterInfo(WireModel):
    """A published adapter."""

    uri: Annotated[str, StringConstraints(max_length=640)]
    """uri of the folder that holds the adapter."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """sha256 of the folder's manifest.json, which lists the sha256 of every file."""
    size_bytes: Annotated[int, Field(ge=0, le=2**62)]
    """sizeBytes of all files together."""


class WorkerStatus(WireModel):
    """Rank 0's answer to `GET /status`, and the JSON form of a progress line."""

    phase: Literal["Starting", "Loading", "Training", "Evaluating", "Publishing", "Done"] = "Starting"
    attempt: Count = None
    step: Count = None
    total_steps: Count = None
    epoch: Number = None
    loss: Number = None
    skipped_steps: Count = None
    learning_rate: Number = None
    tokens_per_second: Number = None
    eta_seconds: Number = None
    metrics: Metrics = Field(default_factory=dict)
    plan: PlanInfo | None = None
    resolved: ResolvedInfo | None = None
    checkpoint: CheckpointInfo | None = None
    """The last one that was written, or gone on from."""
    data: DataInfo | None = None
    waiting: WaitingInfo | None = None
    updated_at: Number = None
    """Unix time in seconds, by the worker's clock."""


class TerminationMessage(WireModel):
    """The last word of a worker pod, at most `TERMINATION_MAX_BYTES` of JSON."""

    reason: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9]{0,63}$")]
    message: Annotated[str, StringConstraints(max_length=MESSAGE_MAX_LENGTH), BeforeValidator(_sayable)]
    exit_code: Annotated[int, Field(ge=-64, le=255)]
    rank: Count = None
    """The rank that names the cause."""
    claimed_attempt: Count = None
    """Of `Superseded`: that of the gang which has claimed the output."""
    adapter: AdapterInfo | None = None
    status: WorkerStatus | None = None
    """Rank 0's last status, so that the final step and loss outlive the pod."""

    def to_json(self) -> str:
        """Return at most `TERMINATION_MAX_BYTES` bytes of JSON; a long message is cut, the result never."""
        message = self
        while True:
            text = _compact(message)
            excess = len(text.encode()) - TERMINATION_MAX_BYTES
            if excess <= 0:
                return text
            if not message.message:
                # Only metrics can still be long; the adapter and the reason must stay.
                return _compact(message.model_copy(update={"status": None}))
            # JSON escapes a character into at most six bytes; cutting by bytes / 6 converges without overshooting much.
            keep = max(0, len(message.message) - max(1, excess // 6))
            message = message.model_copy(update={"message": message.message[:keep]})


def _compact(message: TerminationMessage) -> str:
    return json.dumps(message.to_wire(), separators=(",", ":"), ensure_ascii=False)


_Wire = TypeVar("_Wire", bound=WireModel)


def parse_worker_json(model: type[_Wire], text: str | bytes) -> _Wire | None:
    """Parse what a worker said; None when it is too long, no JSON, or does not fit the model."""
    if len(text) > STATUS_MAX_BYTES:
        return None
    try:
        return model.model_validate_json(text)
    except (ValidationError, ValueError):
        return None
