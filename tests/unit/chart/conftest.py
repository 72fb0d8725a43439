"""Helm, kubeconform and the rendered chart, for the tests beside this file."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from peftjob_testkit.chart import Helm, Render, tool


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tool("helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def kubeconform() -> Path:
    return tool("kubeconform")


@pytest.fixture(scope="session")
def render(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Return a function from values to the chart's objects, which are the caller's to change."""
    known: dict[str, list[dict[str, Any]]] = {}

    def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
        key = json.dumps(values, sort_keys=True)
        if key not in known:
            known[key] = helm.objects(values, tmp_path_factory.mktemp("values"))
        return copy.deepcopy(known[key])

    return rendered
