"""What every API model shares: camel case on the wire, no unknown fields, and rules that hold in two places.

A `Rule` is one constraint between fields, written once as CEL (the API server checks it at `kubectl apply`) and
once as a Python predicate (the launcher checks it where there is no API server). The corpus in
`tests/integration/api/corpus` runs through both and they must agree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

INT32_MAX = 2**31 - 1
"""The largest integer of the field format int32."""

RULE_ERROR = "peftjob_rule"
"""The pydantic error type of a broken `Rule`; its context holds `broken`, pairs of field path and message."""


@dataclass(frozen=True)
class Rule:
    """A constraint between fields: CEL expression, Python mirror, and a message that names the field and the fix."""

    cel: str
    holds: Callable[[Any], bool]
    message: str
    field_path: str | None = None
    """Relative to the object that carries the rule, such as `.revision`."""

    def schema(self) -> dict[str, str]:
        """Return the entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        if self.field_path:
            entry["fieldPath"] = self.field_path
        return entry


def check_rules(model: Any, rules: Sequence[Rule]) -> None:
    """Raise one error, of type `RULE_ERROR`, for all rules that do not hold for a model."""
    broken = [(rule.field_path or "", rule.message) for rule in rules if not rule.holds(model)]
    if broken:
        text = "; ".join(message for _, message in broken)
        raise PydanticCustomError(RULE_ERROR, "{text}", {"text": text, "broken": broken})


def _as_stored(value: Any) -> Any:
    """Return a number without a fraction as an integer: JSON does not tell 8.0 from 8, and neither does kubectl."""
    if isinstance(value, Mapping):
        return {key: _as_stored(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ApiModel(BaseModel):
    """Base of everything in a PeftJob's spec: strict types, camel case, no field that nobody reads."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_as_the_api_server(cls, data: Any) -> Any:
        """Take null for absent, whatever the field, and 8.0 for 8."""
        if not isinstance(data, Mapping):
            return data
        return {key: _as_stored(value) for key, value in data.items() if value is not None}

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        check_rules(self, self.rules)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Carry the CEL rules into the schema from which the CRD is generated."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.rules:
            schema["x-kubernetes-validations"] = [rule.schema() for rule in cls.rules]
        return schema

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form: camel case, absent instead of null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
