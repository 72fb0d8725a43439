"""Forms that strings of the spec have: uris, names, urls; as bounded types and as rules. Used by `spec`."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import StringConstraints
from pydantic.alias_generators import to_camel

from .base import Rule

Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Files = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
"""Uris of files or patterns, separated by spaces or line breaks, which no uri has in it."""
Endpoint = Annotated[str, StringConstraints(min_length=1, max_length=512)]
DnsName = Annotated[str, StringConstraints(min_length=1, max_length=253)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]
ModuleName = Annotated[str, StringConstraints(min_length=1, max_length=256)]

_DNS = "[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_VISIBLE = r"[^\s\x00-\x1f\x7f?#]+"
_ENDPOINT = f"https?://{_VISIBLE}"
RESOURCE = f"{_DNS}/[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?"
_S3 = "s3://[a-z0-9][-a-z0-9.]{1,61}[a-z0-9]"
_PVC = f"pvc://{_DNS}"
_REPO = "[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*"
_PATH = f"/{_VISIBLE}"
_DOTS = "(.*/)?[.][.]?(/.*)?"
_DOTS_OF_SEVERAL = r"[\s\S]*/[.][.]?([/ \n][\s\S]*)?"
_FILE = f"({_S3}{_PATH}|{_PVC}{_PATH}|file://{_PATH}|hf://datasets/{_REPO}(@[-A-Za-z0-9._]+)?{_PATH})"
_ENDING = r"[^ \n]+[.](jsonl|csv|parquet)"
_URIS = {
    "model": (
        f"{_S3}({_PATH})?|{_PVC}({_PATH})?|file://{_PATH}|hf://{_REPO}",
        "use hf://OWNER/NAME, s3://BUCKET/PREFIX, pvc://CLAIM/PATH or file:///PATH",
    ),
    "output": (
        f"{_S3}{_PATH}|{_PVC}{_PATH}|file://{_PATH}",
        "use s3://BUCKET/PREFIX, pvc://CLAIM/PATH or file:///PATH",
    ),
}
_URIS["adapter"] = _URIS["output"]


def match_rule(field: str, pattern: str, message: str, *, required: bool = False, negate: bool = False) -> Rule:
    """Return the rule that a string field matches a pattern as a whole (or, with `negate`, does not).

    A rule and not the schema's own `pattern`, which could only answer with the pattern. What the pattern says must
    mean the same to RE2 and to `re`, so: no look-around, and `re` reads it as ASCII.
    """
    name = to_camel(field)
    compiled = re.compile(pattern, re.ASCII)
    literal = f"^({pattern})$".replace("\\", "\\\\").replace("'", "\\'")

    def holds(model: Any) -> bool:
        value = getattr(model, field)
        return value is None or (compiled.fullmatch(value) is not None) is not negate

    cel = f"{'!' if negate else ''}self.{name}.matches('{literal}')"
    return Rule(cel if required else f"!has(self.{name}) || {cel}", holds, f"{name} {message}", f".{name}")


def uri_rules(kind: str, field: str, *, required: bool = False) -> tuple[Rule, ...]:
    """Return the rules that a uri field has one of the forms that its kind of thing can be read from or written to."""
    pattern, fix = _URIS[kind]
    return (
        match_rule(field, pattern, f"is no uri of {'an' if kind[0] in 'ao' else 'a'} {kind}: {fix}", required=required),
        match_rule(field, _DOTS, "has . or .. in its path: write the path without", required=required, negate=True),
    )


def files_rules(field: str, *, required: bool = False) -> tuple[Rule, ...]:
    """Return the rules that a field of type `Files` names files or patterns, of which the endings tell the format."""
    fix = "use s3://BUCKET/KEY, hf://datasets/OWNER/NAME[@REVISION]/FILE, pvc://CLAIM/PATH or file:///PATH"

    def ends(dataset: Any) -> bool:
        value = getattr(dataset, field)
        return dataset.format != "Auto" or value is None or re.fullmatch(_several(_ENDING), value) is not None

    endings = _several(_ENDING).replace("\\", "\\\\")
    known = f"self.format != 'Auto' || self.{field}.matches('^{endings}$')"
    return (
        match_rule(field, _several(_FILE), f"is no uri of a file, nor several of them: {fix}", required=required),
        match_rule(field, _DOTS_OF_SEVERAL, "has . or .. in a path: write it without", required=required, negate=True),
        Rule(
            known if required else f"!has(self.{field}) || {known}",
            ends,
            f"{field} does not end in .jsonl, .csv or .parquet: set dataset.format to JSONL, CSV, Parquet or "
            f"ImageFolder",
            f".{field}",
        ),
    )


def _several(pattern: str) -> str:
    return rf"{pattern}([ \n]+{pattern})*[ \n]*"


def endpoint_rule() -> Rule:
    """Return the rule that the field `endpoint` is a url without a query."""
    return match_rule("endpoint", _ENDPOINT, "is no url of a server: use https://HOST or http://HOST:PORT")


def name_rule(field: str, what: str) -> Rule:
    """Return the rule that a field can be the name of a Kubernetes object."""
    return match_rule(field, _DNS, f"is no name of a {what}: use lower-case letters, digits, '-' and '.'")


def variant_rules(union: str, variants: Mapping[str, str]) -> tuple[Rule, ...]:
    """Return the rules that of a tagged union only the variant that `type` names is set.

    Args:
        union: The union's JSON name, for messages.
        variants: JSON name of the field of each variant -> its value of `type`.
    """
    return tuple(_variant_rule(union, name, kind) for name, kind in variants.items())


def _variant_rule(union: str, name: str, kind: str) -> Rule:
    def holds(model: Any) -> bool:
        field = next(field for field, info in type(model).model_fields.items() if info.alias == name)
        return getattr(model, field) is None or model.type == kind

    return Rule(
        f"!has(self.{name}) || self.type == '{kind}'",
        holds,
        f"{name} is set but type is not {kind}: set {union}.type to {kind} or remove it",
        f".{name}",
    )
