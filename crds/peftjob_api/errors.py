"""What pydantic found wrong with a PeftJob, in one line each: the field, what is wrong, and what to write instead.

The launcher prints these; on a cluster the API server says the same in its own words.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .base import RULE_ERROR
from .peftjob import PeftJob

_Location = Sequence[str | int]

# The start of pydantic's error types that say "not of this type", and how that type is written.
_TYPES = {
    "int": ("an integer", "write a number without quotes, such as 8"),
    "float": ("a number", "write it without quotes, such as 0.0002"),
    "finite_number": ("a finite number", "write a number such as 0.0002"),
    "bool": ("true or false", "write true or false without quotes"),
    "string": ("a string", "put it in quotes"),
    "list": ("a list", "write it as [a, b], or one item a line after '- '"),
    "dict": ("an object", "write its fields indented below it"),
    "model": ("an object", "write its fields indented below it"),
}


def format_errors(error: ValidationError, model: type[BaseModel] = PeftJob) -> str:
    """Return one line for each thing that is wrong, such as `spec.workers.nodes: must be at least 1 (got 0)`.

    Args:
        error: What validating `model` raised.
        model: Tells the names of the fields beside a misspelt one.
    """
    return "\n".join(line for details in error.errors() for line in _lines(details, model))


def _lines(details: ErrorDetails, model: type[BaseModel]) -> Iterator[str]:
    location = details["loc"]
    if details["type"] == RULE_ERROR:
        for field_path, message in details["ctx"]["broken"]:
            yield f"{(_path(location) + field_path).lstrip('.')}: {message}"
    else:
        yield f"{_path(location)}: {_sentence(details, model)}"


def _sentence(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value, bounds = details["type"], details["input"], details.get("ctx", {})
    got = f" (got {_shown(value)})"
    match kind:
        case "extra_forbidden":
            return f"unknown field ({_suggestion(details['loc'], model)})"
        case "missing":
            return f"required, but not there ({_description(details['loc'], model)})"
        case "literal_error":
            return f"must be one of {bounds['expected'].replace(' or ', ', ')}{got}"
        case "greater_than":
            return f"must be greater than {bounds['gt']:g}{got}"
        case "greater_than_equal":
            return f"must be at least {bounds['ge']:g}{got}"
        case "less_than":
            return f"must be less than {bounds['lt']:g}{got}"
        case "less_than_equal":
            return f"must be at most {bounds['le']}{got}"
        case "string_too_short" | "too_short":
            unit = "characters" if kind.startswith("string") else "items"
            return f"too short: must have at least {bounds['min_length']} {unit}{got}"
        case "string_too_long" | "too_long":
            unit = "characters" if kind.startswith("string") else "items"
            return f"too long: must have at most {bounds['max_length']} {unit}"
    for name, (what, fix) in _TYPES.items():
        if kind == name or kind.startswith(f"{name}_"):
            return f"must be {what}, not {_shown(value)} ({fix})"
    return f"{details['msg']}{got}"


def _path(location: _Location) -> str:
    """Return a location as Kubernetes writes it: `spec.method.lora.targetModules[1]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _shown(value: Any) -> str:
    """Return a value as it would stand in a manifest, cut to a readable length."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggestion(location: _Location, model: type[BaseModel]) -> str:
    names = list(_fields(location[:-1], model))
    close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"


def _description(location: _Location, model: type[BaseModel]) -> str:
    description = _fields(location[:-1], model).get(str(location[-1])) or f"add {location[-1]}"
    return " ".join(description.split())


def _fields(location: _Location, model: type[BaseModel]) -> dict[str, str | None]:
    """Return the JSON names and descriptions of the fields of the object at a location."""
    for part in location:
        inner = next((f.annotation for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        candidates = [a for a in (inner, *get_args(inner)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if candidates:
            model = candidates[0]
    return {field.alias or name: field.description for name, field in model.model_fields.items()}
