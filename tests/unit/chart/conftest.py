"""Helm, kubeconform and the rendered chart, for the tests beside this file."""

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


@pytest.fixture
def render(helm: Helm, tmp_path: Path) -> Render:
    """Return a function from values to the chart's objects."""

    def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
        return helm.objects(values, tmp_path)

    return rendered
