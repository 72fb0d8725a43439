"""Every name that two parts of PeftJob must spell alike: labels, annotations, ports, paths, environment.

Read by the operator (which writes them), the trainer (which reads them), the chart's tests and the e2e tests.
"""

from typing import Final

GROUP: Final = "peftjob.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "PeftJob"
PLURAL: Final = "peftjobs"
SINGULAR: Final = "peftjob"
SHORT_NAME: Final = "pj"

FIELD_MANAGER: Final = "peftjob-operator"

# Labels on every child object; the operator's watches select on LABEL_JOB on the server's side.
LABEL_JOB: Final = f"{GROUP}/job-name"
LABEL_JOB_UID: Final = f"{GROUP}/job-uid"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
LABEL_APP_NAME: Final = "app.kubernetes.io/name"
LABEL_APP_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_APP_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_APP_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
APP_NAME: Final = "peftjob"
COMPONENT_WORKER: Final = "worker"

# Set by the Job controller on the pods of an Indexed Job.
LABEL_JOB_INDEX: Final = "batch.kubernetes.io/job-completion-index"

TRAINER_CONTAINER: Final = "trainer"
STATUS_PORT: Final = 8080
STATUS_PORT_NAME: Final = "status"
STATUS_PATH: Final = "/status"
METRICS_PATH: Final = "/metrics"
RENDEZVOUS_PORT: Final = 29500

RUN_CONFIG_DIR: Final = "/etc/peftjob"
RUN_CONFIG_KEY: Final = "run.json"
RUN_CONFIG_PATH: Final = f"{RUN_CONFIG_DIR}/{RUN_CONFIG_KEY}"
S3_KEYS_DIR: Final = "/etc/peftjob-s3"  # where the Secret of spec.storage.s3.secretName is mounted
S3_KEY_NAMES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")  # the last is optional
TERMINATION_PATH: Final = "/dev/termination-log"
TERMINATION_MAX_BYTES: Final = 4096
WORK_DIR: Final = "/tmp"
PVC_MOUNT_ROOT: Final = "/mnt/pvc"  # a claim C of a pvc://C/path is mounted at PVC_MOUNT_ROOT/C

# Environment of a worker pod, set by the operator (build.py), read by the launcher.
ENV_RUN_CONFIG: Final = "PEFTJOB_RUN_CONFIG"
ENV_ATTEMPT: Final = "PEFTJOB_ATTEMPT"
ENV_GANG: Final = "PEFTJOB_GANG"  # uid of this pod; rank 0's tells its gang from all others of the PeftJob
ENV_NODE_RANK: Final = "JOB_COMPLETION_INDEX"  # set by the Job controller
ENV_MASTER_ADDR: Final = "PEFTJOB_MASTER_ADDR"
ENV_CPU_LIMIT: Final = "PEFTJOB_CPU_LIMIT"  # downward API, whole cores rounded up
ENV_MEMORY_LIMIT: Final = "PEFTJOB_MEMORY_LIMIT"  # downward API, bytes
ENV_TERMINATION_PATH: Final = "PEFTJOB_TERMINATION_PATH"
ENV_LOG_FORMAT: Final = "PEFTJOB_LOG_FORMAT"
ENV_HANG_SECONDS: Final = "PEFTJOB_HANG_SECONDS"  # set by users, in workers.podTemplate: see docs/failure-modes.md

# Objects at the output prefix.
MANIFEST_NAME: Final = "manifest.json"
CLAIM_NAME: Final = ".peftjob-claim.json"
CHECKPOINTS_FOLDER: Final = "checkpoints"
