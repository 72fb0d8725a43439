"""The status of a PeftJob: what the operator writes, once per reconcile, and only if it changed."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from .worker import AdapterInfo, CheckpointInfo, DataInfo, Metrics, PlanInfo, ResolvedInfo, WireModel

_Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Timestamp = Annotated[str, StringConstraints(max_length=64), Field(json_schema_extra={"format": "date-time"})]

ConditionType = Literal["Suspended", "WorkersReady", "Succeeded", "Failed"]
State = Literal[
    "Pending", "Queued", "Starting", "Running", "Publishing", "Restarting", "Suspended", "Succeeded", "Failed"
]


class Condition(WireModel):
    """One observation about the PeftJob, as in Kubernetes' API conventions."""

    type: ConditionType
    """type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """status of the condition."""
    reason: Annotated[
        str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ]
    """reason in one word; docs/failure-modes.md explains each."""
    message: Annotated[str, StringConstraints(max_length=32768)] = ""
    """message says what happened and what to do."""
    last_transition_time: _Timestamp
    """lastTransitionTime is when status last changed."""
    observed_generation: Annotated[int, Field(ge=0, le=2**62)] | None = None
    """observedGeneration is the generation of the spec that this is about."""


class Progress(WireModel):
    """How far training is, as rank 0 last told."""

    step: _Count | None = None
    """step is the number of finished optimiser steps."""
    total_steps: _Count | None = None
    """totalSteps to do."""
    display: Annotated[str, StringConstraints(max_length=64)] | None = None
    """display is step and totalSteps as one word, such as 120/300."""
    epoch: float | None = None
    """epoch is the number of passes over the data so far."""
    loss: float | None = None
    """loss per supervised token (or row) at the last step."""
    skipped_steps: _Count | None = None
    """skippedSteps is the number of steps that were not taken, since their loss or gradient was not finite."""
    learning_rate: float | None = None
    """learningRate at the last step."""
    tokens_per_second: float | None = None
    """tokensPerSecond over all ranks."""
    metrics: Metrics = Field(default_factory=dict)
    """metrics of the last evaluation."""
    eta_seconds: float | None = None
    """etaSeconds until training ends."""
    eta: Annotated[str, StringConstraints(max_length=64)] | None = None
    """eta is etaSeconds for people, such as 4m10s."""
    updated_at: _Timestamp | None = None
    """updatedAt is when the operator read this."""


class Checkpoint(CheckpointInfo):
    """What the next attempt goes on from, as far as the operator knows; the output itself is the truth."""

    time: _Timestamp
    """time is when the operator first read of it."""


class Failure(WireModel):
    """The last end of an attempt by a failure: its own, not a disruption of the cluster."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """reason in one word; docs/failure-modes.md explains each."""
    message: Annotated[str, StringConstraints(max_length=2048)]
    """message says what happened and what to do."""
    step: _Count | None = None
    """step is the last one that the attempt finished; absent if nobody told of any."""
    count: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """count of failures in a row with this reason after this step: more than one is a loop."""
    furthest_step: _Count
    """furthestStep is the last step that any attempt had finished by then."""
    time: _Timestamp
    """time is when the operator knew the cause."""


class PeftJobStatus(WireModel):
    """What is known about a PeftJob."""

    observed_generation: Annotated[int, Field(ge=0, le=2**62)] | None = None
    """observedGeneration is the generation of the spec that this status is about."""
    state: State | None = None
    """state is the conditions in one word, for people."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = Field(default_factory=list)
    """conditions: `Suspended`, `WorkersReady`, `Succeeded` and `Failed`."""
    start_time: _Timestamp | None = None
    """startTime is when the first gang of workers was asked for; from then on the spec's substance is immutable."""
    completion_time: _Timestamp | None = None
    """completionTime is when the job succeeded or failed."""
    attempt: _Count | None = None
    """attempt is the number of the current (or last) child Job, from 1."""
    restarts: _Count | None = None
    """restarts counts failures that were retried."""
    restarts_without_progress: _Count | None = None
    """restartsWithoutProgress counts those of them since training last got well beyond where it had failed, against
    maxRestarts."""
    disruptions: _Count | None = None
    """disruptions counts lost nodes, drains and preemptions, which cost no restart."""
    disruptions_without_progress: _Count | None = None
    """disruptionsWithoutProgress counts disruptions in a row that came before training got beyond furthestStep."""
    furthest_step: _Count | None = None
    """furthestStep is the last step that any attempt that ended had finished."""
    last_failure: Failure | None = None
    """lastFailure says why an attempt failed last, after which step, and how often in a row."""
    retry_at: _Timestamp | None = None
    """retryAt is when the next attempt starts, while the job backs off."""
    active_seconds: _Count | None = None
    """activeSeconds is the time with workers running, of the attempts that ended; counts against
    activeDeadlineSeconds."""
    active_since: _Timestamp | None = None
    """activeSince is when the running gang of workers was complete."""
    progress: Progress | None = None
    """progress of training."""
    plan: PlanInfo | None = None
    """plan says how the base model lies on the ranks."""
    resolved: ResolvedInfo | None = None
    """resolved says by what is trained, with what the spec leaves open filled in."""
    checkpoint: Checkpoint | None = None
    """checkpoint that was written last; gone once the adapter is published."""
    data: DataInfo | None = None
    """data says how many examples the data set came to, and what was left out of it."""
    adapter: AdapterInfo | None = None
    """adapter that was published."""

    def condition(self, type_: ConditionType) -> Condition | None:
        """Return the condition of that type."""
        return next((c for c in self.conditions if c.type == type_), None)

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form: camel case, absent instead of null or empty metrics."""
        wire = super().to_wire()
        if not wire.get("progress", {"metrics": 1}).get("metrics"):
            wire["progress"].pop("metrics", None)
        return wire
