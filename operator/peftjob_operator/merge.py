"""Strategic merge of a user's pod template over ours, as `kubectl patch` does it for pods; pure. Used by `build`.

Lists of named things are merged by their key, as the API's `patchMergeKey` says; all others are replaced, but for
tolerations, which are added: nobody wants to lose those that find a lost node.
https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.34/#podspec-v1-core
"""

from collections.abc import Mapping
from typing import Any, Final

MERGE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "resourceClaims": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
_ADDED: Final = frozenset({"tolerations"})


def strategic_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` merged into it. What is of an unexpected type is taken as it is, for the API server
    to name it.
    """
    merged = dict(base)
    for key, value in over.items():
        ours = base.get(key)
        if isinstance(ours, Mapping) and isinstance(value, Mapping):
            merged[key] = strategic_merge(ours, value)
        elif isinstance(ours, list) and isinstance(value, list) and key in _ADDED:
            merged[key] = [*ours, *(item for item in value if item not in ours)]
        elif isinstance(ours, list) and isinstance(value, list) and key in MERGE_KEYS:
            merged[key] = _merge_lists(ours, value, MERGE_KEYS[key])
        else:
            merged[key] = value
    return merged


def _merge_lists(ours: list[Any], theirs: list[Any], keys: tuple[str, ...]) -> list[Any]:
    merged = list(ours)
    for item in theirs:
        position = next((i for i, own in enumerate(merged) if _same(own, item, keys)), None)
        if position is None:
            merged.append(item)
        else:
            merged[position] = _merge_items(merged[position], item)
    return merged


def _merge_items(own: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    # The API allows one source of a variable's value, and one kind of a volume: another one replaces ours.
    if "valueFrom" in item or "valueFrom" in own:
        own = {key: value for key, value in own.items() if key not in ("value", "valueFrom")}
    if "emptyDir" in own and not item.keys() <= own.keys():
        own = {key: value for key, value in own.items() if key != "emptyDir"}
    return strategic_merge(own, item)


def _same(own: Any, item: Any, keys: tuple[str, ...]) -> bool:
    if not isinstance(own, Mapping) or not isinstance(item, Mapping):
        return False
    return all(own.get(key) is not None and own.get(key) == item.get(key) for key in keys)
