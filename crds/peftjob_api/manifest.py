"""Reading a PeftJob from a YAML file as kubectl reads it. Used by the launcher, which has no kubectl, and by tests.

PyYAML alone differs in ways that would surprise whoever uses both: it takes `2e-4` for a string, `2026-01-01` for a
date, `1:30` for ninety, and silently the last of two equal keys.
"""

import re
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from .errors import format_errors
from .peftjob import PeftJob

_BOOL, _INT, _FLOAT, _NULL, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null", "merge"))


class ManifestError(ValueError):
    """A file that is no PeftJob: one line for each thing that is wrong, with the field and the fix."""


class _Loader(yaml.SafeLoader):
    """YAML with the scalars that kubectl knows, and no key twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML reads both from the class)
    bool_values: ClassVar[dict[str, bool]] = {**yaml.SafeLoader.bool_values, "y": True, "n": False}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    (_BOOL, "y|Y|true|True|TRUE|yes|Yes|YES|on|On|ON|n|N|false|False|FALSE|no|No|NO|off|Off|OFF", "tTyYoOfFnN"),
    (_INT, "[-+]?(0|[1-9][0-9_]*|0o?[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)", "-+0123456789"),
    (
        _FLOAT,
        r"[-+]?([.][0-9]+|[0-9]+([.][0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?[.](inf|Inf|INF)|[.](nan|NaN|NAN)",
        "-+0123456789.",
    ),
    (_NULL, "~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_MERGE, "<<", "<"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))


def load_manifest(text: str) -> dict[str, Any]:
    """Parse one YAML (or JSON) document that is an object.

    Raises:
        ManifestError: It is none; the message says at which line.
    """
    try:
        document = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ManifestError(f"{where}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ManifestError(" ".join(str(error).split())) from error
    if not isinstance(document, dict):
        raise ManifestError(
            f"no {PeftJob.__name__}: the file must hold one object with apiVersion, kind, metadata, spec"
        )
    return document


def read_peftjob(text: str) -> PeftJob:
    """Read a PeftJob from the text of a file.

    Raises:
        ManifestError: It is no YAML, or no valid PeftJob.
    """
    try:
        # By alias only: in Python a field has its own name too (batch_size), but a file must say batchSize.
        return PeftJob.model_validate(load_manifest(text), by_alias=True, by_name=False)
    except ValidationError as error:
        raise ManifestError(format_errors(error)) from error
