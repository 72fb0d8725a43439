"""Reasons of conditions, Events and termination messages: one word each, explained in docs/failure-modes.md."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a PeftJob is in the state it is in."""

    # Named by the trainer, in its termination message.
    INVALID_CONFIG = "InvalidConfig"
    BASE_MODEL_NOT_FOUND = "BaseModelNotFound"
    BASE_MODEL_CORRUPT = "BaseModelCorrupt"
    ADAPTER_NOT_FOUND = "AdapterNotFound"
    ADAPTER_UNSUITABLE = "AdapterUnsuitable"
    CHECKPOINT_UNSUITABLE = "CheckpointUnsuitable"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_COLUMN_MISSING = "DatasetColumnMissing"
    DATASET_MALFORMED = "DatasetMalformed"
    DATASET_EMPTY = "DatasetEmpty"
    DATASET_DIFFERS = "DatasetDiffers"
    UNKNOWN_LABEL = "UnknownLabel"
    TARGET_MODULES_NOT_FOUND = "TargetModulesNotFound"
    DOES_NOT_FIT = "DoesNotFit"
    NON_FINITE_LOSS = "NonFiniteLoss"
    OUT_OF_MEMORY = "OutOfMemory"
    BUCKET_NOT_FOUND = "BucketNotFound"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    STORAGE_ACCESS_DENIED = "StorageAccessDenied"
    CONDITIONAL_WRITES_UNSUPPORTED = "ConditionalWritesUnsupported"
    OUTPUT_OCCUPIED = "OutputOccupied"
    SUPERSEDED = "Superseded"
    INTERRUPTED = "Interrupted"
    LOST_PEER = "LostPeer"
    HANG = "Hang"
    INTERNAL_ERROR = "InternalError"

    # Found by the operator, in pods, events, and the API server's answers.
    INVALID_SPEC = "InvalidSpec"
    INVALID_POD_TEMPLATE = "InvalidPodTemplate"
    NAME_CONFLICT = "NameConflict"
    QUOTA_EXCEEDED = "QuotaExceeded"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 (a reason, no secret)
    VOLUME_NOT_READY = "VolumeNotReady"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    PARTLY_SCHEDULED = "PartlyScheduled"
    START_TIMEOUT = "StartTimeout"
    DISRUPTED = "Disrupted"
    NODE_LOST = "NodeLost"
    NO_PROGRESS = "NoProgress"
    RESULT_LOST = "ResultLost"
    DEADLINE_EXCEEDED = "DeadlineExceeded"

    # No failure.
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    QUEUED = "Queued"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    CHECKPOINTED = "Checkpointed"
    FINISHED = "Finished"
    ADAPTER_PUBLISHED = "AdapterPublished"
