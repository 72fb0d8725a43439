"""Kopf's handlers: they put keys on the queue, and nothing else.

Only indices and plain event handlers: they write nothing to the objects, neither annotations nor finalizers.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import kopf
from peftjob_api.constants import GROUP, LABEL_JOB, PLURAL, VERSION

from .cache import Cache, Key
from .observe import Observer
from .workqueue import WorkQueue


def registry(cache: Cache, queue: WorkQueue[Key], observer: Observer) -> kopf.OperatorRegistry:
    """Return the handlers of PeftJobs and of their Jobs and pods."""
    handlers = kopf.OperatorRegistry()
    children = {LABEL_JOB: kopf.PRESENT}

    @kopf.on.login(registry=handlers)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=handlers)
    def startup(settings: kopf.OperatorSettings, **kwargs: Any) -> None:
        configure(settings)
        for kind in ("peftjobs", "jobs", "pods"):
            cache.attach(kind, kwargs[kind])

    @kopf.index(GROUP, VERSION, PLURAL, id="peftjobs", registry=handlers)
    def index_peftjob(body: kopf.Body, namespace: Any, name: str, **_: Any) -> dict[Key, dict[str, Any]]:
        return {(namespace, name): slim(body)}

    @kopf.index("batch", "v1", "jobs", id="jobs", labels=children, registry=handlers)
    def index_job(body: kopf.Body, namespace: Any, labels: Any, **_: Any) -> dict[Key, dict[str, Any]]:
        return {(namespace, labels[LABEL_JOB]): slim(body)}

    @kopf.index("", "v1", "pods", id="pods", labels=children, registry=handlers)
    def index_pod(body: kopf.Body, namespace: Any, labels: Any, **_: Any) -> dict[Key, dict[str, Any]]:
        return {(namespace, labels[LABEL_JOB]): slim(body)}

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    def on_peftjob(namespace: Any, name: str, **_: Any) -> None:
        queue.add((namespace, name))

    @kopf.on.event("batch", "v1", "jobs", labels=children, registry=handlers)
    def on_job(namespace: Any, labels: Any, **_: Any) -> None:
        queue.add((namespace, labels[LABEL_JOB]))

    @kopf.on.event("", "v1", "pods", labels=children, registry=handlers)
    def on_pod(body: kopf.Body, namespace: Any, labels: Any, **_: Any) -> None:
        observer.remember(body)
        queue.add((namespace, labels[LABEL_JOB]))

    return handlers


def configure(settings: kopf.OperatorSettings) -> None:
    """Make Kopf ask the API server for no more than the operator needs and may see."""
    settings.watching.label_selectors["batch", "v1", "jobs"] = LABEL_JOB
    settings.watching.label_selectors["", "v1", "pods"] = LABEL_JOB
    settings.scanning.disabled = True  # neither CRDs nor namespaces are watched
    settings.posting.enabled = False  # Events are our own
    settings.networking.error_backoffs = _Forever()
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 10.0


class _Forever:
    """The pauses between tries to list and to watch. Kopf's default ends with a minute of errors, and the process."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1.0, 2.0)
        yield from itertools.repeat(5.0)


def slim(body: kopf.Body) -> dict[str, Any]:
    """Return an object without what takes half its memory and tells nothing."""
    obj = dict(body)
    obj["metadata"] = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return obj
