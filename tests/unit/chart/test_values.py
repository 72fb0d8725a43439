"""values.schema.json: what is misspelt or of the wrong type is refused before anything reaches a cluster, by name."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from peftjob_testkit.chart import CHART, Helm


@dataclass(frozen=True)
class Bad:
    id: str
    values: dict[str, Any]
    want_key: str
    """The path, as Helm prints it, and where it says so the misspelt name."""


def image(**values: Any) -> dict[str, Any]:
    return {"operator": {"image": values}}


BAD = [
    Bad("a misspelt top-level group", {"operatr": {}}, "'operatr' not allowed"),
    Bad("a misspelt list of namespaces", {"watchNamespace": ["a"]}, "'watchNamespace' not allowed"),
    Bad("a misspelt key of the operator", {"operator": {"tolerationz": []}}, "'tolerationz' not allowed"),
    Bad("a misspelt key of an image", image(tagg="1"), "'tagg' not allowed"),
    Bad("a misspelt key of the trainer's image", {"trainer": {"image": {"pullpolicy": "Always"}}}, "'pullpolicy'"),
    Bad("a misspelt switch of the CRD", {"crds": {"installed": False}}, "'installed' not allowed"),
    Bad("a misspelt resource", {"operator": {"resources": {"limits": {"mem": "1Gi"}}}}, "'mem' not allowed"),
    Bad("a misspelt key of a toleration", {"operator": {"tolerations": [{"keys": "x"}]}}, "'keys' not allowed"),
    Bad("a misspelt kind of affinity", {"operator": {"affinity": {"nodeAfinity": {}}}}, "'nodeAfinity' not allowed"),
    Bad("a misspelt monitor", {"metrics": {"servicemonitor": {}}}, "'servicemonitor' not allowed"),
    Bad("a misspelt key of a policy's peer", {"networkPolicy": {"metricsFrom": [{"ipblock": {}}]}}, "'ipblock'"),
    Bad("a misspelt pull secret", {"imagePullSecrets": [{"nam": "x"}]}, "'nam' not allowed"),
    Bad("a tag that YAML reads as a number", image(tag=1.1), "/operator/image/tag"),
    Bad("a tag with a colon", image(tag="a:b"), "/operator/image/tag"),
    Bad("a digest without its algorithm", image(digest="0" * 64), "/operator/image/digest"),
    Bad("a tag inside the repository", image(repository="peftjob-operator:1"), "/operator/image/repository"),
    Bad("an empty repository", image(repository=""), "/operator/image/repository"),
    Bad("a pull policy that does not exist", image(pullPolicy="Sometimes"), "/operator/image/pullPolicy"),
    Bad("a registry with a scheme", {"imageRegistry": "https://registry.example.com"}, "/imageRegistry"),
    Bad("a boolean in quotes", {"crds": {"keep": "false"}}, "/crds/keep"),
    Bad("one namespace instead of a list", {"watchNamespaces": "team-a"}, "/watchNamespaces"),
    Bad("a namespace twice", {"watchNamespaces": ["a", "a"]}, "/watchNamespaces"),
    Bad("a pattern as a namespace", {"watchNamespaces": ["team-*"]}, "/watchNamespaces/0"),
    Bad("pull secrets as plain names", {"imagePullSecrets": ["my-registry"]}, "/imagePullSecrets/0"),
    Bad("root as the operator's user", {"operator": {"runAsUser": 0}}, "/operator/runAsUser"),
    Bad("a quantity with an unknown suffix", {"operator": {"resources": {"limits": {"memory": "512MB"}}}}, "/memory"),
    Bad("an annotation that is no string", {"serviceAccount": {"annotations": {"a": True}}}, "/annotations/a"),
    Bad("a node selector that is no string", {"operator": {"nodeSelector": {"gpu": False}}}, "/nodeSelector/gpu"),
    Bad("a label that the chart sets itself", {"commonLabels": {"app.kubernetes.io/name": "x"}}, "/commonLabels"),
    Bad("a pod label that a selector uses", {"operator": {"podLabels": {"app.kubernetes.io/name": "x"}}}, "/podLabels"),
    Bad("an interval without a unit", {"metrics": {"podMonitor": {"interval": "30"}}}, "/metrics/podMonitor/interval"),
    Bad("a port out of range", {"networkPolicy": {"apiServerPorts": [70000]}}, "/networkPolicy/apiServerPorts/0"),
    Bad("an upper-case name", {"fullnameOverride": "PeftJob"}, "/fullnameOverride"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda c: c.id)
def test_bad_values_are_refused_by_name(case: Bad, helm: Helm, tmp_path: Path) -> None:
    done = helm.template(case.values, tmp_path)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert case.want_key in done.stderr


def paths_of_values(node: dict[str, Any], schema: dict[str, Any], at: str = "") -> tuple[set[str], set[str]]:
    """Return the paths that values.yaml sets, and those the schema knows, down to where either holds free content."""
    known = schema.get("properties", {})
    mine, theirs = set(node), set(known) - {"global"}
    values, allowed = {f"{at}.{k}" for k in mine}, {f"{at}.{k}" for k in theirs}
    for key in mine & theirs:
        child = known[key]
        if isinstance(node[key], dict) and "properties" in child:
            below = paths_of_values(node[key], child, f"{at}.{key}")
            values |= below[0]
            allowed |= below[1]
    return values, allowed


def resolved(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            return resolved(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {k: resolved(v, definitions) for k, v in node.items() if k != "$defs"}
    return [resolved(item, definitions) for item in node] if isinstance(node, list) else node


def test_the_schema_and_the_values_know_the_same_keys() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    schema = resolved(schema, schema["$defs"])
    values, allowed = paths_of_values(yaml.safe_load((CHART / "values.yaml").read_text()), schema)
    # A pod's resources and affinities are optional one by one.
    optional = {".operator.resources.limits.cpu", ".operator.resources.limits.ephemeral-storage"}
    optional |= {".operator.resources.requests.ephemeral-storage"}
    optional |= {f".operator.affinity.{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")}
    assert allowed - values == optional
    assert values <= allowed


def open_objects(node: Any, at: str = "") -> list[str]:
    """Return where a schema describes an object but not all of its keys."""
    if isinstance(node, list):
        return [found for i, item in enumerate(node) for found in open_objects(item, f"{at}/{i}")]
    if not isinstance(node, dict):
        return []
    own = [at] if node.get("type") == "object" and node.get("additionalProperties", True) is True else []
    return own + [found for key, value in node.items() for found in open_objects(value, f"{at}/{key}")]


def test_no_object_of_the_schema_takes_unknown_keys_but_those_that_kubernetes_defines() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    affinity = "/properties/operator/properties/affinity/properties"
    assert set(open_objects(schema)) == {
        "/properties/global",
        f"{affinity}/nodeAffinity",
        f"{affinity}/podAffinity",
        f"{affinity}/podAntiAffinity",
    }


def test_every_value_is_documented() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    undocumented = []
    for number, line in enumerate(lines):
        key = re.match(r"^( *)([A-Za-z]+):(.*)$", line)
        if not key:
            continue
        is_group = number + 1 < len(lines) and lines[number + 1].startswith(key.group(1) + "  ") and not key.group(3)
        above = lines[number - 1].strip()
        inside = any(f"{parent}:" in line for parent in ("cpu", "memory", "requests", "limits"))
        if not is_group and not inside and not above.startswith("#"):
            undocumented.append(line)
    assert undocumented == []
