"""The corpus of good and bad PeftJobs, in tests/integration/api/corpus: samples with a change each.

Used by tests/unit/api (through pydantic) and tests/integration/api (through kubectl and a real API server), whose
verdicts must agree.
"""

import copy
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from peftjob_api import load_manifest

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/integration/api/corpus"
SAMPLES = ROOT / "crds/samples"
Words = str | dict[str, str]


@dataclass(frozen=True)
class Case:
    """One manifest, or one change of a manifest."""

    name: str
    sample: dict[str, Any]
    manifest: dict[str, Any]
    """The sample, changed."""
    field: Words = ""
    fix: Words = ""
    complaints: int = 1
    """How many things are wrong."""
    started: bool = True
    """Whether the job has started before a change of it."""

    @property
    def text(self) -> str:
        """The manifest as a file. JSON is YAML too, and PyYAML would write the string "2e-4" without its quotes."""
        try:
            return json.dumps(self.manifest, allow_nan=False)
        except ValueError:
            return yaml.safe_dump(self.manifest)

    def want(self, side: str) -> list[str]:
        """Return what the message of `kubectl` or `python` must contain."""
        return [words if isinstance(words, str) else words[side] for words in (self.field, self.fix)]


@cache
def sample(name: str) -> dict[str, Any]:
    """Return a sample of `crds/samples`; not to be changed."""
    return load_manifest((SAMPLES / f"{name}.yaml").read_text())


def changed(manifest: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest after `set` and `remove`, whose keys are paths."""
    manifest = copy.deepcopy(manifest)
    for path, value in entry.get("set", {}).items():
        *parents, last = path.split(".")
        node = manifest
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    for path in entry.get("remove", []):
        *parents, last = path.split(".")
        node = manifest
        for part in parents:
            node = node[part]
        del node[last]
    return manifest


def read(pattern: str) -> list[Case]:
    """Return the cases of the corpus' files of that name."""
    cases = []
    for file in sorted(CORPUS.glob(pattern)):
        # Read as kubectl reads, so that `no` and 2e-4 mean in the corpus what they mean in a manifest.
        entries = load_manifest("cases:\n" + file.read_text())["cases"]
        for entry in entries:
            base = sample(entry.get("from", "minimal"))
            settings = {key: entry[key] for key in ("field", "fix", "complaints", "started") if key in entry}
            cases.append(Case(entry["name"], base, changed(base, entry), **settings))
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases have the same name"
    assert cases, f"no case in {CORPUS}/{pattern}"
    return cases


def samples() -> list[Case]:
    """Return the samples themselves, unchanged."""
    names = sorted(path.stem for path in SAMPLES.glob("*.yaml"))
    return [Case(f"the sample {name}", sample(name), sample(name)) for name in names]


def every(cases: list[Case]) -> pytest.MarkDecorator:
    """Return the mark that runs a test with each case, under the case's name."""
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])
