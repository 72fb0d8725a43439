"""What the chart tells the operator, by environment, and the times that govern the reconcile."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

ENV_TRAINER_IMAGE: Final = "PEFTJOB_OPERATOR_TRAINER_IMAGE"
ENV_TRAINER_IMAGE_PULL_POLICY: Final = "PEFTJOB_OPERATOR_TRAINER_IMAGE_PULL_POLICY"
ENV_WATCH_NAMESPACES: Final = "PEFTJOB_OPERATOR_WATCH_NAMESPACES"

ENV_HEALTH_PORT: Final = "PEFTJOB_OPERATOR_HEALTH_PORT"
ENV_METRICS_PORT: Final = "PEFTJOB_OPERATOR_METRICS_PORT"

POLL_SECONDS: Final = 5.0
"""Between two looks at rank 0's progress."""
PROGRESS_SECONDS: Final = 10.0
"""At least this long between two writes of progress."""
WAIT_SECONDS: Final = 10.0
"""Until the next look at a gang that is not complete; what changes there is also told by the watches."""
RESYNC_SECONDS: Final = 60.0
"""After which what the watches told about an unfinished job is read anew: a watch may miss a deletion."""
LOST_AFTER_SECONDS: Final = 30.0
"""After a pod's deletion time: its node does not answer, so the pod is deleted by force."""
NODE_TOLERATION_SECONDS: Final = 30
"""That a pod stays on a node that does not answer, before it is deleted."""
MAX_DISRUPTIONS_WITHOUT_PROGRESS: Final = 10

# What the operator does to the cluster; the chart's rules are held against this list. (group, resource) -> verbs.
RIGHTS: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("peftjob.io", "peftjobs"): frozenset({"list", "watch", "get", "delete"}),
    ("peftjob.io", "peftjobs/status"): frozenset({"patch"}),
    ("batch", "jobs"): frozenset({"list", "watch", "get", "create", "delete"}),
    ("", "pods"): frozenset({"list", "watch", "delete"}),
    ("", "pods/log"): frozenset({"get"}),
    ("", "services"): frozenset({"get", "create", "patch"}),
    ("", "configmaps"): frozenset({"get", "create", "patch"}),
    ("", "events"): frozenset({"list", "create"}),
}


@dataclass(frozen=True)
class Settings:
    """The operator's settings."""

    trainer_image: str
    trainer_image_pull_policy: str = "IfNotPresent"
    namespaces: tuple[str, ...] = ()
    """Those whose PeftJobs are reconciled; empty means all."""
    health_port: int = 8080
    metrics_port: int = 8081

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the variables that the chart sets.

        Raises:
            ValueError: The trainer's image is missing, or a port is no number.
        """
        image = environment.get(ENV_TRAINER_IMAGE, "")
        if not image:
            raise ValueError(f"{ENV_TRAINER_IMAGE} is not set: it names the image of the worker pods")
        names = environment.get(ENV_WATCH_NAMESPACES, "").split(",")
        return cls(
            trainer_image=image,
            trainer_image_pull_policy=environment.get(ENV_TRAINER_IMAGE_PULL_POLICY) or "IfNotPresent",
            namespaces=tuple(sorted({name.strip() for name in names if name.strip()})),
            health_port=int(environment.get(ENV_HEALTH_PORT) or cls.health_port),
            metrics_port=int(environment.get(ENV_METRICS_PORT) or cls.metrics_port),
        )
