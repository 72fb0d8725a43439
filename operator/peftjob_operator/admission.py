"""Suspension and queues: everything that knows about Kueue.

A queue admits the one child Job of an attempt whole or not at all, by its `spec.suspend`, which PeftJob never touches.
https://kueue.sigs.k8s.io/docs/tasks/run/jobs/
"""

from collections.abc import Mapping
from typing import Final

from .snapshot import ChildJob

QUEUE_LABELS: Final = ("kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class")


def queue_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a PeftJob that its Job must carry for a queue to see it."""
    return {name: labels[name] for name in QUEUE_LABELS if name in labels}


def is_queued(job: ChildJob) -> bool:
    """Tell whether a queue holds the Job back: it waits for admission, or was preempted."""
    return job.suspended and not job.finished
