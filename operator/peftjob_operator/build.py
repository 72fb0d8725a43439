"""From a PeftJob to its child objects; pure. Used by `reconcile`.

Each attempt is one Indexed Job, whose pods find rank 0 by the name that a headless Service gives it and read their
settings from a ConfigMap; Service and ConfigMap serve all attempts.
"""

from collections.abc import Mapping
from typing import Any

from peftjob_api import PERMANENT, PeftJobSpec, RunConfig
from peftjob_api import constants as names
from peftjob_api.peftjob import Metadata
from peftjob_api.worker import JobIdentity

from .admission import queue_labels
from .merge import strategic_merge
from .settings import NODE_TOLERATION_SECONDS, Settings

Object = dict[str, Any]

DEFAULT_ACCELERATOR = "nvidia.com/gpu"
_KEYS = "s3-keys"
_S3_KEYS = tuple(zip(names.S3_KEY_NAMES, (False, False, True), strict=True))
_HUB_KEYS = (("HF_TOKEN", False),)


def service_name(name: str) -> str:
    """Return the name of the Service, and of the pods' subdomain."""
    return f"{name}-workers"


def config_name(name: str) -> str:
    """Return the name of the ConfigMap."""
    return f"{name}-run"


def job_name(name: str, attempt: int) -> str:
    """Return the name of an attempt's Job."""
    return f"{name}-{attempt}"


def labels(metadata: Metadata) -> dict[str, str]:
    """Return the labels of every child."""
    return {
        names.LABEL_APP_NAME: names.APP_NAME,
        names.LABEL_APP_INSTANCE: metadata.name,
        names.LABEL_APP_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_JOB: metadata.name,
        names.LABEL_JOB_UID: metadata.uid,
    }


def service(metadata: Metadata) -> Object:
    """Return the headless Service: rank 0 must have a name before it is ready, for it waits for the others."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(service_name(metadata.name), metadata),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_JOB: metadata.name, names.LABEL_JOB_UID: metadata.uid},
            "ports": [{"name": names.STATUS_PORT_NAME, "port": names.STATUS_PORT, "protocol": "TCP"}],
        },
    }


def config_map(metadata: Metadata, spec: PeftJobSpec) -> Object:
    """Return the ConfigMap with what the workers read."""
    identity = JobIdentity(namespace=metadata.namespace, name=metadata.name, uid=metadata.uid)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(config_name(metadata.name), metadata),
        "data": {names.RUN_CONFIG_KEY: RunConfig.of(identity, spec).to_json()},
    }


def job(metadata: Metadata, spec: PeftJobSpec, attempt: int, settings: Settings) -> Object:
    """Return the Job of an attempt: one pod for each node, all or none."""
    own = {**labels(metadata), names.LABEL_ATTEMPT: str(attempt)}
    template = pod_template(metadata, spec, attempt, settings)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **_metadata(job_name(metadata.name, attempt), metadata),
            "labels": {**queue_labels(metadata.labels), **own},
        },
        "spec": {
            "completions": spec.workers.nodes,
            "parallelism": spec.workers.nodes,
            "completionMode": "Indexed",
            "backoffLimit": 0,  # any lost rank ends the gang
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    # First: a drained pod's peers fail too, and the Job must not take theirs for the cause.
                    {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": names.TRAINER_CONTAINER,
                            "operator": "In",
                            "values": sorted(int(code) for code in PERMANENT),
                        },
                    },
                ]
            },
            "template": template,
        },
    }


def pod_template(metadata: Metadata, spec: PeftJobSpec, attempt: int, settings: Settings) -> Object:
    """Return the pods' template: ours, the user's merged over it, and what must stay ours over both."""
    own = {**labels(metadata), names.LABEL_ATTEMPT: str(attempt), names.LABEL_APP_COMPONENT: names.COMPONENT_WORKER}
    claims = _claims(spec)
    secret = spec.storage.s3.secret_name if spec.storage.s3 else None
    volumes = [
        *([_keys_volume(secret)] if secret else []),
        {"name": "run-config", "configMap": {"name": config_name(metadata.name)}},
        {"name": "tmp", "emptyDir": {}},
        # The container runtime's own /dev/shm has 64 MiB, too little for NCCL.
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        *({"name": f"pvc-{i}", "persistentVolumeClaim": {"claimName": claim}} for i, claim in enumerate(claims)),
    ]
    mounts = [
        *([{"name": _KEYS, "mountPath": names.S3_KEYS_DIR, "readOnly": True}] if secret else []),
        {"name": "run-config", "mountPath": names.RUN_CONFIG_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": names.WORK_DIR},
        {"name": "shm", "mountPath": "/dev/shm"},
        *({"name": f"pvc-{i}", "mountPath": f"{names.PVC_MOUNT_ROOT}/{claim}"} for i, claim in enumerate(claims)),
    ]
    accelerators = spec.workers.accelerators
    resource = spec.workers.accelerator_resource or DEFAULT_ACCELERATOR
    container: Object = {
        "name": names.TRAINER_CONTAINER,
        "image": settings.trainer_image,
        "imagePullPolicy": settings.trainer_image_pull_policy,
        "env": _environment(metadata, spec, attempt),
        "ports": [{"name": names.STATUS_PORT_NAME, "containerPort": names.STATUS_PORT, "protocol": "TCP"}],
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **({"resources": {"limits": {resource: accelerators}}} if accelerators else {}),
    }
    pod: Object = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **({"fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch"} if claims else {}),
        },
        "tolerations": [
            {
                "key": f"node.kubernetes.io/{taint}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": NODE_TOLERATION_SECONDS,
            }
            for taint in ("not-ready", "unreachable")
        ],
        "affinity": {"podAntiAffinity": _spread(metadata)},
        "containers": [container],
        "volumes": volumes,
    }
    if spec.storage.service_account_name:
        pod["serviceAccountName"] = spec.storage.service_account_name
    merged = strategic_merge({"metadata": {}, "spec": pod}, spec.workers.pod_template or {})
    theirs = merged["metadata"] if isinstance(merged["metadata"], Mapping) else {}
    # No API token, whatever the template says; and the names by which the gang finds itself.
    ours = {"automountServiceAccountToken": False, "subdomain": service_name(metadata.name)}
    merged_spec = {**merged["spec"], **ours} if isinstance(merged["spec"], Mapping) else merged["spec"]
    labels_ = theirs.get("labels")
    return {
        **merged,
        "metadata": {**theirs, "labels": {**(labels_ if isinstance(labels_, Mapping) else {}), **own}},
        "spec": merged_spec,
    }


def _metadata(name: str, owner: Metadata) -> Object:
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner),
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
            }
        ],
    }


def _environment(metadata: Metadata, spec: PeftJobSpec, attempt: int) -> list[Object]:
    """Return the environment of the trainer's container; keys of Secrets are only named here."""
    first = f"{job_name(metadata.name, attempt)}-0.{service_name(metadata.name)}"
    values = {
        names.ENV_RUN_CONFIG: names.RUN_CONFIG_PATH,
        names.ENV_ATTEMPT: str(attempt),
        names.ENV_MASTER_ADDR: first,
        names.ENV_TERMINATION_PATH: names.TERMINATION_PATH,
        names.ENV_LOG_FORMAT: spec.workers.log_format,
    }
    fields = {
        names.ENV_GANG: {"fieldRef": {"fieldPath": "metadata.uid"}},
        names.ENV_CPU_LIMIT: {"resourceFieldRef": {"containerName": names.TRAINER_CONTAINER, "resource": "limits.cpu"}},
        names.ENV_MEMORY_LIMIT: {
            "resourceFieldRef": {"containerName": names.TRAINER_CONTAINER, "resource": "limits.memory"}
        },
    }
    s3, hub = spec.storage.s3, spec.storage.hugging_face
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        *({"name": name, "valueFrom": source} for name, source in fields.items()),
        *(_secret_keys(s3.secret_name, _S3_KEYS) if s3 and s3.secret_name else []),
        *(_secret_keys(hub.secret_name, _HUB_KEYS) if hub and hub.secret_name else []),
    ]


def _secret_keys(secret: str, keys: tuple[tuple[str, bool], ...]) -> list[Object]:
    return [
        {
            "name": key,
            "valueFrom": {"secretKeyRef": {"name": secret, "key": key, **({"optional": True} if optional else {})}},
        }
        for key, optional in keys
    ]


def _keys_volume(secret: str) -> Object:
    """Return a volume with the keys for S3: unlike the environment, it follows the Secret when that is changed.

    That the Secret is missing shows by the environment.
    """
    items = [{"key": key, "path": key} for key in names.S3_KEY_NAMES]
    return {"name": _KEYS, "secret": {"secretName": secret, "items": items, "optional": True}}


def _claims(spec: PeftJobSpec) -> list[str]:
    """Return the claims of the pvc:// uris, each once."""
    uris = [uri.removeprefix("pvc://") for uri in spec.uris() if uri.startswith("pvc://")]
    return list(dict.fromkeys(uri.partition("/")[0] for uri in uris))


def _spread(metadata: Metadata) -> Object:
    """Return a preference for one pod a node: without accelerators nothing else keeps a gang's pods apart."""
    selector = {"matchLabels": {names.LABEL_JOB: metadata.name, names.LABEL_JOB_UID: metadata.uid}}
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
