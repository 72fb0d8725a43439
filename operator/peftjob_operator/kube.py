"""The API server as this operator writes to it and asks it: the right verb for each object.

Objects are plain dicts, as Kopf's watches give them. Every delete carries a uid, every status write a resourceVersion.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Self

import aiohttp
from kubernetes.aio import client, config
from peftjob_api.constants import FIELD_MANAGER, GROUP, LABEL_JOB_UID, PLURAL, VERSION

from . import metrics

log = logging.getLogger(__name__)

Object = dict[str, Any]

TIMEOUT_SECONDS = 15.0
PEFTJOBS = f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}"
JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
PODS = "/api/v1/namespaces/{namespace}/pods"
SERVICES = "/api/v1/namespaces/{namespace}/services"
CONFIG_MAPS = "/api/v1/namespaces/{namespace}/configmaps"
EVENTS = "/api/v1/namespaces/{namespace}/events"
_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """The API server said no."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"HTTP {status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds for which it wants to be left alone."""


class Kube:
    """A client of the API server."""

    def __init__(self, api: client.ApiClient, hear: Callable[[str | None], None]) -> None:
        """Take the connections, and whom to tell the date of each answer."""
        self._api = api
        self._hear = hear

    @classmethod
    async def connect(cls, hear: Callable[[str | None], None]) -> Self:
        """Connect as the pod's service account, or as the kubeconfig says."""
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        api = client.ApiClient(configuration)
        api.user_agent = FIELD_MANAGER
        return cls(api, hear)

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Send one request and return what its JSON says, or the text where it is none.

        Raises:
            ApiError: The API server refused it.
            OSError: It did not answer in time.
        """
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        sent = await self._api.param_serialize(
            method, path, query_params=list((query or {}).items()), header_params=headers, auth_settings=["BearerToken"]
        )
        try:
            answer = await self._api.call_api(sent[0], sent[1], sent[2], body, _request_timeout=TIMEOUT_SECONDS)
            text = (await answer.read()).decode()
        except (aiohttp.ClientError, TimeoutError) as error:
            metrics.API_REQUESTS.labels(method, "none").inc()
            raise OSError(
                f"{method} {path}: no answer from the API server ({error or type(error).__name__})"
            ) from error
        metrics.API_REQUESTS.labels(method, str(answer.status)).inc()
        self._hear(answer.getheader("Date"))
        if answer.status >= 400:
            raise _error(answer.status, text, answer.getheader("Retry-After"))
        return json.loads(text) if "json" in (answer.getheader("Content-Type") or "") else text

    async def get(self, collection: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None where there is none."""
        try:
            found: Object = await self.request("GET", _path(collection, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def list(self, collection: str, namespace: str, **query: str) -> list[Object]:
        """Return the objects of a collection that match `labelSelector` and `fieldSelector`."""
        found: list[Object] = (await self.request("GET", _path(collection, namespace), query=query))["items"]
        return found

    async def create(self, collection: str, obj: Object) -> Object:
        """Create an object; a field that the API does not know is an error that names it."""
        query = {"fieldValidation": "Strict", "fieldManager": FIELD_MANAGER}
        made: Object = await self.request("POST", _path(collection, obj["metadata"]["namespace"]), obj, query=query)
        return made

    async def ensure(self, collection: str, obj: Object) -> Object | None:
        """Create an object, or make ours what it shall be; return one of that name that belongs to somebody else.

        Not by server-side apply alone, which would adopt a stranger's object.
        """
        metadata = obj["metadata"]
        try:
            await self.create(collection, obj)
        except ApiError as error:
            if error.status != 409:
                raise
        else:
            return None
        found = await self.get(collection, metadata["namespace"], metadata["name"])
        if found is None:
            return await self.ensure(collection, obj)  # gone in between
        if not belongs_to(found, owner_uid(obj)):
            return found
        path = _path(collection, metadata["namespace"], metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        await self.request("PATCH", path, obj, query=query, content_type=_APPLY)
        return None

    async def patch_status(self, namespace: str, name: str, resource_version: str, patch: Object) -> Object:
        """Change a PeftJob's status, if the PeftJob is still what the change was told from."""
        body = {"metadata": {"resourceVersion": resource_version}, "status": patch}
        path = f"{_path(PEFTJOBS, namespace, name)}/status"
        changed: Object = await self.request(
            "PATCH", path, body, query={"fieldManager": FIELD_MANAGER}, content_type=_MERGE
        )
        return changed

    async def delete(
        self,
        collection: str,
        namespace: str,
        name: str,
        uid: str,
        *,
        propagation: str = "Background",
        force: bool = False,
    ) -> bool:
        """Delete an object, if it is still the one with that uid; return False where that one seems gone."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        options["propagationPolicy"] = propagation
        if force:
            options["gracePeriodSeconds"] = 0
        try:
            await self.request("DELETE", _path(collection, namespace, name), options)
        except ApiError as error:
            if error.status not in (404, 409):  # 409: another object has the name by now, or it changed just then
                raise
            return False
        return True

    async def pod_log_tail(self, namespace: str, name: str, container: str) -> str:
        """Return the last lines of a container's log."""
        query = {"container": container, "tailLines": "20", "limitBytes": "65536"}
        return str(await self.request("GET", f"{_path(PODS, namespace, name)}/log", query=query))


def owner_uid(obj: Mapping[str, Any]) -> str | None:
    """Return the uid of an object's controller."""
    owners = obj["metadata"].get("ownerReferences") or []
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def belongs_to(obj: Mapping[str, Any], uid: str | None) -> bool:
    """Tell whether a child is that PeftJob's: it owns it, or did so until somebody took the ownerReference away."""
    owner = owner_uid(obj)
    return owner == uid or (owner is None and (obj["metadata"].get("labels") or {}).get(LABEL_JOB_UID) == uid)


def _path(collection: str, namespace: str, name: str = "") -> str:
    path = collection.format(namespace=namespace)
    return f"{path}/{name}" if name else path


def _error(status: int, text: str, wait: str | None) -> ApiError:
    seconds = float(wait) if wait and wait.isdecimal() else None  # a date, the other form, no API server sends
    try:
        told = json.loads(text)
        return ApiError(status, str(told.get("reason", "")), str(told.get("message", "")), seconds)
    except (ValueError, AttributeError):
        return ApiError(status, "", text[:500], seconds)
