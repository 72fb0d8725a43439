"""Write the JSON schemas by which kubeconform checks the rendered chart, without asking the internet for any.

    python tests/unit/chart/schemas/generate.py

Their source is the OpenAPI specification that Kubernetes publishes inside its own Go module (Apache-2.0), in the
version that the embedded cluster runs: `go mod download` finds it in the module cache. Kept are the kinds that the
chart makes and whatever they refer to, without descriptions; added is that no field may be unknown.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GO_MOD = HERE.parents[2] / "cluster/go/kubernetes/go.mod"
DEFINITIONS = HERE / "definitions.json"
KINDS = {
    "api__v1_openapi.json": ["ServiceAccount", "Service", "Pod"],
    "apis__apps__v1_openapi.json": ["Deployment"],
    "apis__rbac.authorization.k8s.io__v1_openapi.json": ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    "apis__networking.k8s.io__v1_openapi.json": ["NetworkPolicy"],
    "apis__apiextensions.k8s.io__v1_openapi.json": ["CustomResourceDefinition"],
}
PREFIX = "#/components/schemas/"


def kubernetes_version() -> str:
    """Return the version of k8s.io/kubernetes that the embedded cluster is built from."""
    found = re.search(r"^\s*(?:require )?k8s\.io/kubernetes (v\S+)", GO_MOD.read_text(), re.MULTILINE)
    assert found, f"{GO_MOD} requires no k8s.io/kubernetes"
    return found.group(1)


def strict(node: Any) -> Any:
    """Return a schema that knows no field but the named, without descriptions and defaults."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {}
    for key, value in node.items():
        if key == "properties":
            kept[key] = {name: strict(schema) for name, schema in value.items()}
        elif key == "$ref":
            kept[key] = value.replace(PREFIX, "#/definitions/")
        elif key not in ("description", "default") and not key.startswith("x-kubernetes-"):
            kept[key] = strict(value)
    if "properties" in kept and "additionalProperties" not in kept:
        kept["additionalProperties"] = False
    return kept


def references(node: Any) -> set[str]:
    """Return the names of the definitions that a schema refers to."""
    if isinstance(node, list):
        return set().union(*(references(item) for item in node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"].rpartition("/")[2]} if isinstance(node.get("$ref"), str) else set()
    return own.union(*(references(value) for value in node.values()))


def main() -> None:
    """Write `definitions.json` and one small file per kind, named as kubeconform looks for them."""
    version = kubernetes_version()
    download = subprocess.run(
        ["go", "mod", "download", "-json", f"k8s.io/kubernetes@{version}"], check=True, capture_output=True, text=True
    )
    specs = Path(json.loads(download.stdout)["Dir"]) / "api/openapi-spec/v3"
    definitions: dict[str, Any] = {}
    for file, kinds in KINDS.items():
        schemas = json.loads((specs / file).read_text())["components"]["schemas"]
        for kind in kinds:
            name, schema = next(
                (name, schema)
                for name, schema in schemas.items()
                if any(k["kind"] == kind for k in schema.get("x-kubernetes-group-version-kind", []))
            )
            identity = schema["x-kubernetes-group-version-kind"][0]
            group, api_version = identity["group"], identity["version"]
            suffix = "-".join(part for part in (group.split(".")[0], api_version) if part)
            reference = {"$ref": f"definitions.json#/definitions/{name}"}
            (HERE / f"{kind.lower()}-{suffix}.json").write_text(json.dumps(reference) + "\n")
            pending = {name}
            while pending:
                current = pending.pop()
                if current not in definitions:
                    definitions[current] = strict(schemas[current])
                    pending |= references(definitions[current])
    document = {"$comment": f"Kubernetes {version}, by generate.py", "definitions": dict(sorted(definitions.items()))}
    DEFINITIONS.write_text(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
