"""Write what is generated from the API's models: the CRD, the chart's copy of it, docs/api.md and docs/methods.md.

    python -m peftjob_api.crdgen            # write
    python -m peftjob_api.crdgen --check    # exit 1 when a committed file differs

Run by `make generate` and `make lint`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from . import constants
from .crdgen_docs import api_reference
from .crdgen_methods import methods_page
from .crdgen_schema import Schema, structural_schema
from .peftjob import NAME_RULES, TRANSITION_RULES
from .spec import PeftJobSpec
from .status import PeftJobStatus

CRD_NAME = f"{constants.PLURAL}.{constants.GROUP}"
_FILE = f"{constants.GROUP}_{constants.PLURAL}.yaml"
CRD_PATH = f"crds/{_FILE}"
CHART_PATH = f"charts/peftjob-operator/files/{_FILE}"
DOCS_PATH = "docs/api.md"
METHODS_PATH = "docs/methods.md"
_HEADER = "# Generated from crds/peftjob_api by `make generate`: change the models, not this file.\n"

# name, type, JSONPath; what comes after AGE is shown by `-o wide` only.
_COLUMNS = (
    ("STATE", "string", ".status.state"),
    ("STEP", "string", ".status.progress.display"),
    ("LOSS", "number", ".status.progress.loss"),
    ("ETA", "string", ".status.progress.eta"),
    ("ADAPTER", "string", ".status.adapter.uri"),
    ("AGE", "date", ".metadata.creationTimestamp"),
)
_WIDE_COLUMNS = (
    ("MODEL", "string", ".spec.baseModel.uri"),
    ("METHOD", "string", ".spec.method.type"),
    ("RESTARTS", "integer", ".status.restarts"),
    ("WORKERS", "string", '.status.conditions[?(@.type=="WorkersReady")].reason'),
    ("FAILURE", "string", '.status.conditions[?(@.type=="Failed")].message'),
)


def resource_schema() -> Schema:
    """Return the schema of a whole PeftJob. The status carries no defaults: it says what was seen, and no more."""
    text = {"type": "string"}
    return {
        "description": "PeftJob is one fine-tuning job: an adapter of a frozen base model, trained by worker pods.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": f"apiVersion is {constants.API_VERSION}.", **text},
            "kind": {"description": f"kind is {constants.KIND}.", **text},
            "metadata": {"type": "object", "properties": {"name": text}},  # named here so that rules may point at it
            "spec": {
                **structural_schema(PeftJobSpec),
                "description": "spec says what to train, how, on what, and where the adapter goes.",
            },
            "status": {
                **structural_schema(PeftJobStatus, defaults=False),
                "description": "status is what is known about the job; the operator writes it.",
            },
        },
        "x-kubernetes-validations": [rule.schema() for rule in (*NAME_RULES, *TRANSITION_RULES)],
    }


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition."""
    columns: list[dict[str, Any]] = [
        {"name": name, "type": type_, "jsonPath": path, **extra}
        for table, extra in ((_COLUMNS, {}), (_WIDE_COLUMNS, {"priority": 1}))
        for name, type_, path in table
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD_NAME},
        "spec": {
            "group": constants.GROUP,
            "names": {
                "kind": constants.KIND,
                "listKind": f"{constants.KIND}List",
                "plural": constants.PLURAL,
                "singular": constants.SINGULAR,
                "shortNames": [constants.SHORT_NAME],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": constants.VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": resource_schema()},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """YAML without anchors: a repeated value is written again."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def generated() -> dict[str, str]:
    """Return the text of every generated file by its path in the repository."""
    document = _HEADER + yaml.dump(crd(), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return {
        CRD_PATH: document,
        CHART_PATH: document,
        DOCS_PATH: api_reference(resource_schema()),
        METHODS_PATH: methods_page(),
    }


def main(argv: list[str] | None = None) -> int:
    """Write or check the files; return the process's exit code."""
    parser = argparse.ArgumentParser(prog="peftjob_api.crdgen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a committed file differs")
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).resolve().parents[2], help="the repository (default: this one)"
    )
    args = parser.parse_args(argv)
    stale = []
    for name, text in generated().items():
        path = args.root / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {name}")
    if args.check and stale:
        print(f"not what the models generate: {', '.join(stale)}; run `make generate` and commit", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
