"""The generator: what it rewrites and refuses, and what the committed schema promises."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from peftjob_api import PeftJobSpec, PeftJobStatus, crdgen
from peftjob_api.crdgen_schema import Schema, SchemaError, filled, structural_schema
from peftjob_testkit.corpus import ROOT, read, samples
from pydantic import BaseModel, ConfigDict, Field

ETCD_LIMIT_OF_AN_ANNOTATION = 262_144
"""Bytes that client-side apply may store; it stores the whole CRD once more in one annotation."""


def nodes(schema: Schema, path: str, name: str) -> Iterator[tuple[str, str, Schema]]:
    """Yield path, name and schema of everything below a schema, itself included."""
    yield path, name, schema
    for child, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{child}", child)
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from nodes(schema[key], path + mark, "")


RESOURCE = crdgen.resource_schema()
NODES = [node for part in ("spec", "status") for node in nodes(RESOURCE["properties"][part], part, part)]
EACH_NODE = pytest.mark.parametrize(("path", "name", "schema"), NODES, ids=[path for path, _, _ in NODES])


@EACH_NODE
def test_every_field_is_described_starting_with_its_name(path: str, name: str, schema: Schema) -> None:
    if name:
        first = re.split(r"[\s:,]", schema.get("description", ""), maxsplit=1)[0]
        assert first == name, f"{path} starts with {first!r}"
        assert schema["description"].rstrip().endswith((".", ")")), f"{path} is described in half a sentence"


@EACH_NODE
def test_everything_is_typed_and_bounded(path: str, name: str, schema: Schema) -> None:
    assert schema["type"] in ("object", "array", "string", "integer", "number", "boolean")
    if schema["type"] == "string":
        fixed_length = re.search(r"\{\d+\}\$$", schema.get("pattern", ""))
        assert "maxLength" in schema or "enum" in schema or fixed_length, f"{path} may be of any length"
    if schema["type"] == "array":
        assert "maxItems" in schema, f"{path} may have any number of items"
    if schema["type"] == "integer":
        assert {"minimum", "maximum", "format"} <= schema.keys(), f"{path} has no bounds"
    if schema["type"] == "object" and "properties" not in schema:
        opaque = schema.get("x-kubernetes-preserve-unknown-fields") and path == "spec.workers.podTemplate"
        assert opaque or "maxProperties" in schema, f"{path} may have any number of entries"


@EACH_NODE
def test_every_rule_points_at_a_field_that_exists(path: str, name: str, schema: Schema) -> None:
    for rule in schema.get("x-kubernetes-validations", ()):
        field = schema
        for part in filter(None, rule.get("fieldPath", "").split(".")):
            assert part in field["properties"], f"{path}: {rule['fieldPath']}"
            field = field["properties"][part]
        assert len(rule["message"]) <= 300
        assert "\n" not in rule["message"]


def test_only_the_spec_is_filled_in_by_the_api_server() -> None:
    defaults = {path for path, _, schema in NODES if "default" in schema}
    assert {path.split(".")[0] for path in defaults} == {"spec"}


@pytest.mark.parametrize("case", read("good.yaml") + samples(), ids=lambda case: case.name)
def test_the_schemas_defaults_are_the_models(case: Any) -> None:
    spec = PeftJobSpec.model_validate(case.manifest["spec"])
    given = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert filled(RESOURCE["properties"]["spec"], given) == spec.to_wire()


def test_the_crd_is_far_below_what_kubectl_apply_can_store() -> None:
    assert len(crdgen.generated()[crdgen.CRD_PATH]) < ETCD_LIMIT_OF_AN_ANNOTATION / 2


def test_the_committed_files_are_what_the_models_generate() -> None:
    assert crdgen.main(["--check", "--root", str(ROOT)]) == 0


def test_the_check_fails_on_a_stale_file_and_a_run_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crdgen.main(["--root", str(tmp_path)]) == 0
    assert crdgen.main(["--check", "--root", str(tmp_path)]) == 0
    (tmp_path / crdgen.DOCS_PATH).write_text("by hand")
    assert crdgen.main(["--check", "--root", str(tmp_path)]) == 1
    assert "docs/api.md" in capsys.readouterr().err
    assert (tmp_path / crdgen.DOCS_PATH).read_text() == "by hand"
    assert crdgen.main(["--root", str(tmp_path)]) == 0
    assert crdgen.main(["--check", "--root", str(tmp_path)]) == 0


def test_the_chart_carries_the_same_crd() -> None:
    assert (ROOT / crdgen.CHART_PATH).read_text() == (ROOT / crdgen.CRD_PATH).read_text()
    assert yaml.safe_load((ROOT / crdgen.CRD_PATH).read_text()) == crdgen.crd()


@pytest.mark.parametrize("part", ["spec", "status"])
def test_the_reference_has_a_row_for_every_field_and_a_target_for_every_link(part: str) -> None:
    text = crdgen.generated()[crdgen.DOCS_PATH]
    for path, name, schema in NODES:
        if not name or path == part or not path.startswith(part):
            continue
        section = text.split(f"\n## {path.rsplit('.', 1)[0]}\n")[1].split("\n## ")[0]
        assert f"\n| `{name}` | " in section, path
        for rule in schema.get("x-kubernetes-validations", ()):
            assert f"- {rule['message']}\n" in text
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()) for title in re.findall(r"^## (.*)$", text, re.MULTILINE)}
    assert set(re.findall(r"\(#([^)]*)\)", text)) <= anchors


class Node(BaseModel):
    child: "Node | None" = None


class Union(BaseModel):
    either: int | str = 0


class Tuple(BaseModel):
    pair: tuple[int, str] = (1, "a")


class Inner(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    depth: int = 1


class Contradiction(BaseModel):
    inner: Inner = Inner(depth=2)


class Misread(BaseModel):
    share: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


@pytest.mark.parametrize(
    ("model", "want"),
    [
        (Node, "Node contains itself"),
        (Union, "no unions"),
        (Tuple, "no prefixItems"),
        (Contradiction, "make them the same"),
        (Misread, "use an inclusive bound"),
    ],
    ids=[
        "a cycle",
        "a union of types",
        "a keyword of newer JSON schema",
        "two defaults that differ",
        "a default that is cut to the bound",
    ],
)
def test_what_no_structural_schema_can_say_is_refused(model: type[BaseModel], want: str) -> None:
    with pytest.raises(SchemaError, match=want):
        structural_schema(model)


class Rewritten(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    optional: Annotated[float, Field(gt=0, lt=1)] | None = None
    """optional has
    two lines."""
    small: Annotated[int, Field(ge=0, le=9)]
    large: Annotated[int, Field(ge=0, le=2**40)] = 3
    nested: Inner = Inner()
    """nested says more than Inner."""
    listed: Annotated[list[Inner], Field(max_length=2)]
    free: dict[str, Any]
    counted: Annotated[dict[str, int], Field(max_length=4)]


def test_what_pydantic_says_otherwise_is_rewritten() -> None:
    inner = {"type": "object", "properties": {"depth": {"type": "integer", "format": "int64", "default": 1}}}
    assert structural_schema(Rewritten) == {
        "type": "object",
        "required": ["small", "listed", "free", "counted"],
        "properties": {
            "optional": {
                "type": "number",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 1,
                "exclusiveMaximum": True,
                "description": "optional has two lines.",
            },
            "small": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 9},
            "large": {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**40, "default": 3},
            "nested": {**inner, "description": "nested says more than Inner.", "default": {"depth": 1}},
            "listed": {"type": "array", "maxItems": 2, "items": inner},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            "counted": {
                "type": "object",
                "maxProperties": 4,
                "additionalProperties": {"type": "integer", "format": "int64"},
            },
        },
    }


def test_defaults_can_be_left_out() -> None:
    paths = [
        path
        for path, _, schema in nodes(structural_schema(PeftJobStatus, defaults=False), "", "")
        if "default" in schema
    ]
    assert paths == []
