"""From a pydantic model's JSON schema to a structural schema, the dialect that CustomResourceDefinitions are made of.

Pure functions, called by `crdgen` and `crdgen_docs`. What the dialect forbids is rewritten (references, nullable
unions, numeric exclusive bounds) or, where there is nothing to rewrite it to, refused here rather than by a cluster.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_INT32_MAX = 2**31 - 1
_PLAIN = frozenset(
    {
        "type",
        "format",
        "description",
        "enum",
        "pattern",
        "required",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    }
)
# pydantic words without a counterpart: titles repeat the field's name; a structural schema forbids unknown fields by
# itself (`additionalProperties: false` clashes with `properties`); keys of maps cannot be bounded.
_DROPPED = frozenset({"title", "propertyNames"})


class SchemaError(ValueError):
    """A model says something that no structural schema can say."""


def structural_schema(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """Return the structural schema of a model.

    Args:
        model: The model; its fields' docstrings become descriptions.
        defaults: Whether the API server shall fill in (and store) the fields' defaults.

    Raises:
        SchemaError: A cycle, a union of types, or a keyword that has no counterpart.
    """
    schema = model.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    return _Converter(definitions, defaults).convert(schema, path=model.__name__, inside=())


class _Converter:
    """The walk over one schema: its definitions, and how to treat defaults."""

    def __init__(self, definitions: Mapping[str, Schema], defaults: bool) -> None:
        self.definitions = definitions
        self.defaults = defaults

    def convert(self, node: Schema, path: str, inside: tuple[str, ...]) -> Schema:
        """Return the structural form of `node`; `inside` are the definitions that are being inlined."""
        node, inside = self._inline(node, path, inside)
        out: Schema = {}
        for key, value in node.items():
            if key in _PLAIN or key.startswith("x-kubernetes-"):
                out[key] = value
            elif key == "const":
                out["enum"] = [value]
            elif key in ("exclusiveMinimum", "exclusiveMaximum"):
                out |= {key[len("exclusive") :].lower(): value, key: True}
            elif key == "properties":
                out[key] = {name: self.convert(child, f"{path}.{name}", inside) for name, child in value.items()}
            elif key == "items":
                out[key] = self.convert(value, f"{path}[]", inside)
            elif key == "additionalProperties":
                if value is True:
                    out["x-kubernetes-preserve-unknown-fields"] = True
                elif value is not False:
                    out[key] = self.convert(value, f"{path}{{}}", inside)
            elif key == "default":
                if self.defaults and value is not None:
                    out[key] = value
            elif key not in _DROPPED:
                raise SchemaError(f"{path}: a structural schema has no {key}")
        if "description" in out:
            out["description"] = " ".join(out["description"].split())
        if out.get("type") == "integer":
            out["format"] = "int32" if out.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"
        if out.get("type") == "number":
            _check_default(out, path)
        if out.get("type") == "object" and "default" in out:
            out["default"] = _object_default(out, path)
        return out

    def _inline(self, node: Schema, path: str, inside: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """Replace references and optional types by what they stand for; what the node itself says wins."""
        if "$ref" in node:
            name = node["$ref"].rsplit("/", 1)[-1]
            if name in inside:
                raise SchemaError(f"{path}: {name} contains itself")
            siblings = {key: value for key, value in node.items() if key != "$ref"}
            return self._inline({**self.definitions[name], **siblings}, path, (*inside, name))
        if "anyOf" in node:
            options = [option for option in node["anyOf"] if option != {"type": "null"}]
            if len(options) != 1:
                raise SchemaError(f"{path}: a structural schema has no unions of types")
            siblings = {key: value for key, value in node.items() if key != "anyOf"}
            return self._inline({**options[0], **siblings}, path, inside)
        return node, inside


def _check_default(schema: Schema, path: str) -> None:
    """Refuse a default that the API server takes for out of bounds: it reads 0.0 as an integer, and cuts the bound.

    So 0 is not below an exclusive 0.5, and no cluster would take the CRD.
    """
    default, bound = schema.get("default"), schema.get("maximum")
    if schema.get("exclusiveMaximum") and default is not None and default == int(default) >= int(bound or 0):
        raise SchemaError(
            f"{path}: a cluster takes the default {default} for no less than {bound}: use an inclusive bound"
        )


def _object_default(schema: Schema, path: str) -> Schema:
    """Return the default of an object, written out: CEL rules see a default before its own fields' are filled in."""
    default: Schema = without_nulls(schema["default"])
    if filled(schema, {}) != default:
        raise SchemaError(f"{path}: absent means {default}, but {{}} means {filled(schema, {})}: make them the same")
    return default


def without_nulls(value: Any) -> Any:
    """Return a JSON value with absent instead of null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def filled(schema: Schema, value: Any) -> Any:
    """Return a JSON value with the schema's defaults filled in, as the API server stores it."""
    if not isinstance(value, dict):
        return value
    properties: dict[str, Schema] = schema.get("properties", {})
    out = dict(value)
    for name, child in properties.items():
        if name not in out and "default" in child:
            out[name] = child["default"]
        if name in out:
            out[name] = filled(child, out[name])
    return out
