"""The Helm chart, rendered without a cluster. Used by tests/unit/chart and tests/integration."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/peftjob-operator"
RELEASE, NAMESPACE = "peftjob-operator", "peftjob-system"
# Built from its module without linker flags, helm takes the absent cluster for an ancient one.
KUBERNETES = ("--kube-version", "v1.34.4")

Render = Callable[[dict[str, Any]], list[dict[str, Any]]]


def tool(name: str) -> Path:
    """Return a binary built by `make tools-api`. Its absence is a failure, not a skip: the chart would go untested."""
    path = ROOT / ".cluster/bin" / name
    if not path.exists():
        pytest.fail(f"{path.relative_to(ROOT)} is missing: run `make tools-api`")
    return path


class Helm:
    """The helm binary, kept away from the caller's own configuration and clusters."""

    def __init__(self, binary: Path, home: Path) -> None:
        """Take the binary and an empty folder for its configuration and caches."""
        self.binary = binary
        self.env = {"HOME": str(home), "KUBECONFIG": str(home / "no-cluster"), "PATH": "/usr/bin:/bin"}

    def run(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        """Run helm with arguments and return what it said, whether it failed or not."""
        return subprocess.run(
            [str(self.binary), *map(str, args)], env=self.env, capture_output=True, text=True, timeout=60, check=False
        )

    def template(self, values: dict[str, Any], folder: Path, chart: Path = CHART) -> subprocess.CompletedProcess[str]:
        """Render the chart with values as a user's file in `folder` would give them."""
        file = folder / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        return self.run("template", RELEASE, chart, "--namespace", NAMESPACE, "--values", file, *KUBERNETES)

    def objects(self, values: dict[str, Any], folder: Path, chart: Path = CHART) -> list[dict[str, Any]]:
        """Return the chart's objects, hooks included."""
        done = self.template(values, folder, chart)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]
