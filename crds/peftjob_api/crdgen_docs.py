"""docs/api.md from the schema that the CRD carries, so that neither can say what the other does not. For `crdgen`."""

from collections.abc import Iterator
from typing import Any

from . import constants
from .crdgen_schema import Schema
from .peftjob import IMMUTABLE_FIELDS, MUTABLE_FIELDS, NAME_RULES

_INTRO = f"""\
# API reference: {constants.KIND} (`{constants.API_VERSION}`)

<!-- Generated from crds/peftjob_api by `make generate`: change the models, not this file. -->

A `{constants.KIND}` (short name `{constants.SHORT_NAME}`) is one fine-tuning job. Samples that work:
[crds/samples](../crds/samples).

A misspelt field, a wrong type, a value out of bounds and a broken rule are errors at `kubectl apply`, and the same
ones where the launcher reads a file without a cluster. Defaults are filled in by the API server and stored. `null`
means absent. Counts may be written `8` or `8.0`; numbers never go in quotes.
"""


def api_reference(resource: Schema) -> str:
    """Return the Markdown text for the schema of a whole {constants.KIND}."""
    spec, status = resource["properties"]["spec"], resource["properties"]["status"]
    parts = [_INTRO, _metadata(), *_sections("spec", spec), _changes(), *_sections("status", status)]
    return "\n".join(parts)


def _metadata() -> str:
    rules = "".join(f"- {rule.message}\n" for rule in NAME_RULES)
    return f"## metadata\n\n{rules}"


def _changes() -> str:
    frozen, free = (", ".join(f"`spec.{name}`" for name in names) for names in (IMMUTABLE_FIELDS, MUTABLE_FIELDS))
    return (
        "## Changes\n\n"
        "A job may be changed at will until it has started (`status.startTime`). From then on:\n\n"
        f"- may change: {free}\n"
        f"- may not: {frozen}; delete the PeftJob and create it anew\n"
    )


def _sections(path: str, schema: Schema) -> Iterator[str]:
    """Yield a section for an object and for each object within it, outer ones first."""
    rows = [
        "| field | type | default | bounds | what |",
        "|---|---|---|---|---|",
        *(_row(path, name, child, name in schema.get("required", ())) for name, child in schema["properties"].items()),
    ]
    rules = [f"- {rule['message']}" for rule in schema.get("x-kubernetes-validations", ())]
    text = f"## {path}\n\n{_cell(schema['description'])}\n\n" + "\n".join(rows) + "\n"
    if rules:
        text += "\nRules:\n\n" + "\n".join(rules) + "\n"
    yield text
    for name, child in schema["properties"].items():
        for inner, suffix in ((child, ""), (child.get("items", {}), "[]")):
            if "properties" in inner:
                yield from _sections(f"{path}.{name}{suffix}", inner)


def _row(path: str, name: str, schema: Schema, required: bool) -> str:
    default = "**required**" if required else _value(schema.get("default"))
    cells = (f"`{name}`", _type(path, name, schema), default, _bounds(schema), _cell(schema["description"]))
    return "| " + " | ".join(cells) + " |"


def _type(path: str, name: str, schema: Schema) -> str:
    kind = schema["type"]
    if "properties" in schema:
        return f"[object](#{_anchor(f'{path}.{name}')})"
    if kind == "array":
        items = schema["items"]
        return (
            f"[list of objects](#{_anchor(f'{path}.{name}[]')})"
            if "properties" in items
            else f"list of {items['type']}s"
        )
    if "additionalProperties" in schema:
        return f"map of {schema['additionalProperties']['type']}s"
    if schema.get("format") == "date-time":
        return "time"
    return str(kind)


def _bounds(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    parts = []
    if "minimum" in schema:
        parts.append(f"{'>' if schema.get('exclusiveMinimum') else '≥'} {_number(schema['minimum'])}")
    if "maximum" in schema:
        parts.append(f"{'<' if schema.get('exclusiveMaximum') else '≤'} {_number(schema['maximum'])}")
    for least, most, unit in (
        ("minLength", "maxLength", "characters"),
        ("minItems", "maxItems", "items"),
        ("minProperties", "maxProperties", "entries"),
    ):
        if most in schema:
            parts.append(f"{schema[least]} to {schema[most]} {unit}" if least in schema else f"≤ {schema[most]} {unit}")
    if "items" in schema and (inner := _bounds(schema["items"])):
        parts.append(f"each {inner}")
    return ", ".join(parts)


def _number(value: float) -> str:
    powers = {2**31 - 1: "2³¹ - 1", 2**62: "2⁶²"}
    return powers.get(int(value), f"{value:g}" if isinstance(value, float) else str(value))


def _value(value: Any) -> str:
    if value is None or isinstance(value, dict):
        return ""  # an object's default is that of its fields
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(title: str) -> str:
    """Return the fragment that GitHub makes of a heading."""
    return "".join(c for c in title.lower() if c.isalnum() or c in "-_")
