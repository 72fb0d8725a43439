"""The PeftJob API: the one definition of the resource, shared by operator, trainer, chart and tests.

No torch, no kopf, no kubernetes: this package is imported on both sides.
"""

from .errors import format_errors
from .exit_codes import PERMANENT, ExitCode, most_specific
from .manifest import ManifestError, load_manifest, read_peftjob
from .peftjob import PeftJob, validate_update
from .reasons import Reason
from .spec import PeftJobSpec
from .status import Checkpoint, Condition, Failure, PeftJobStatus, Progress
from .worker import (
    AdapterInfo,
    CheckpointInfo,
    DataInfo,
    JobIdentity,
    PlanInfo,
    ResolvedInfo,
    RunConfig,
    TerminationMessage,
    WaitingInfo,
    WorkerStatus,
    parse_worker_json,
)

__all__ = [
    "PERMANENT",
    "AdapterInfo",
    "Checkpoint",
    "CheckpointInfo",
    "Condition",
    "DataInfo",
    "ExitCode",
    "Failure",
    "JobIdentity",
    "ManifestError",
    "PeftJob",
    "PeftJobSpec",
    "PeftJobStatus",
    "PlanInfo",
    "Progress",
    "Reason",
    "ResolvedInfo",
    "RunConfig",
    "TerminationMessage",
    "WaitingInfo",
    "WorkerStatus",
    "format_errors",
    "load_manifest",
    "most_specific",
    "parse_worker_json",
    "read_peftjob",
    "validate_update",
]
