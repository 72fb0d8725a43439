"""kubectl and Helm as a user types them, with their JSON parsed."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .waiting import wait_for

Object = dict[str, Any]


class KubectlError(RuntimeError):
    """A command that failed, with what it said."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace of one cluster."""

    namespace: str = "default"
    command: tuple[str, ...] = ("kubectl",)

    def run(self, *args: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl; return its standard output.

        Raises:
            KubectlError: It failed; the message holds its standard error.
        """
        command = [*self.command, "--namespace", self.namespace, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise KubectlError(f"{' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *objects: Object) -> None:
        """Apply objects, as `kubectl apply -f` does."""
        self.run("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, kind: str, name: str) -> Object | None:
        """Return one object, or None when there is none."""
        text = self.run("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """Return the objects of a kind that carry the labels."""
        items: list[Object] = json.loads(self.run("get", kind, "-l", selector, "-o", "json"))["items"]
        return items

    def delete(self, kind: str, name: str, *, wait: bool = False) -> None:
        """Delete one object, if it is there."""
        self.run("delete", kind, name, "--ignore-not-found", f"--wait={str(wait).lower()}", timeout=300)

    def patch(self, kind: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merge a patch into one object."""
        self.run("patch", kind, name, "--type=merge", "-p", json.dumps(patch))

    def job(self, name: str) -> Object:
        """Return a PeftJob.

        Raises:
            KubectlError: There is none.
        """
        found = self.get("peftjob", name)
        if found is None:
            raise KubectlError(f"no PeftJob {self.namespace}/{name}")
        return found

    def wait_job(self, name: str, what: str, probe: Callable[[Object], bool], timeout: float) -> Object:
        """Wait until `probe` holds for a PeftJob; return it. A time-out tells its status, pods and events."""

        def check() -> Object | None:
            job = self.job(name)
            return job if probe(job) else None

        return wait_for(f"{name}: {what}", check, timeout, explain=lambda: self.explain(name))

    def wait_state(self, name: str, *states: str, timeout: float = 300) -> Object:
        """Wait until a PeftJob's state is one of those; return it."""
        return self.wait_job(
            name, f"state {' or '.join(states)}", lambda job: job.get("status", {}).get("state") in states, timeout
        )

    def explain(self, name: str) -> str:
        """Return all that tells why a PeftJob is where it is."""
        parts = [json.dumps((self.get("peftjob", name) or {}).get("status"), indent=1)]
        selector = f"peftjob.io/job-name={name}"
        for args in (
            ("get", "pods,jobs", "-l", selector, "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", selector, "--tail=40", "--prefix", "--ignore-errors"),
        ):
            try:
                parts.append(self.run(*args))
            except (KubectlError, subprocess.TimeoutExpired) as error:
                parts.append(str(error))
        return "\n".join(parts)


def condition(job: Mapping[str, Any], type_: str) -> Object:
    """Return a condition of an object, or an empty dict."""
    conditions: Sequence[Object] = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == type_), {})


def helm_install(
    helm: Sequence[str], chart: Path, namespace: str, values: Mapping[str, str], timeout: str = "180s"
) -> None:
    """Install or upgrade the operator as its documentation says, and wait until it is ready.

    Raises:
        KubectlError: Helm failed; the message holds what it said.
    """
    sets = [arg for key, value in values.items() for arg in ("--set-string", f"{key}={value}")]
    done = subprocess.run(
        [
            *helm,
            *("upgrade", "--install", "peftjob-operator", str(chart), "--namespace", namespace),
            *("--create-namespace", "--wait", "--timeout", timeout, *sets),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise KubectlError(f"helm: {done.stderr.strip()}")
