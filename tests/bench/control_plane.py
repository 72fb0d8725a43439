"""What a PeftJob costs the control plane: API requests by user, from the API server's audit log, and times of a watch.

Usage: control_plane.py [--jobs N] [--finished N] [--idle SECONDS] [--json FILE]

A real etcd, API server, controller manager and scheduler on loopback, fake nodes, and the operator as a process with
the rights that the chart gives it. Each job asks for two pods, which run two seconds and leave a result. The medians
are of jobs made one after the other; the idle row counts what the operator asks for while nothing happens.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/cluster"), str(ROOT / "tests")]

from peftjob_cluster.control_plane import ControlPlane  # noqa: E402
from peftjob_cluster.kube import ApiError  # noqa: E402
from peftjob_testkit.loopback import Namespace  # noqa: E402
from peftjob_testkit.operator import OPERATOR_USER, Operator, install_operator  # noqa: E402

BARS = (
    ("the operator's own API writes per job, median, without progress and Events", "<=", 10.0),
    ("Events per job, median", "<=", 6.0),
    ("create call to both pods existing, median s", "<=", 0.3),
    ("last pod done to Succeeded, median s", "<=", 1.3),
    ("requests at rest but leases and watches", "<=", 0.0),
)
WRITES = {"create", "update", "patch", "delete"}


class Watch:
    """A watch of a collection: what happened to each object, by the watcher's clock."""

    def __init__(self, plane: ControlPlane, path: str) -> None:
        self.seen: list[tuple[float, dict[str, Any]]] = []
        threading.Thread(target=self._read, args=(plane, path), daemon=True).start()

    def _read(self, plane: ControlPlane, path: str) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # the API server ends first
            while True:
                try:
                    for event in plane.api.watch(path):
                        self.seen.append((time.monotonic(), event["object"]))
                except ApiError as error:
                    if error.status != 429:  # it has just learned of the kind
                        raise
                time.sleep(0.2)

    def first(self, holds: Callable[[dict[str, Any]], bool], count: int = 1) -> float | None:
        """Return when `count` objects (by uid) had been seen for which something holds."""
        uids: set[str] = set()
        for at, obj in list(self.seen):
            if holds(obj):
                uids.add(obj["metadata"]["uid"])
                if len(uids) >= count:
                    return at
        return None


def requests_of(plane: ControlPlane, since: int) -> Iterator[dict[str, Any]]:
    """Yield the operator's requests after the first `since` lines of the audit log."""
    for number, event in enumerate(plane.audit_events()):
        if number >= since and event["user"]["username"] == OPERATOR_USER:
            yield event


def kinds(events: Iterator[dict[str, Any]], name: str) -> Counter[str]:
    """Return how often the operator did what for one job."""
    counts: Counter[str] = Counter()
    for event in events:
        ref = event.get("objectRef", {})
        body = f"{ref.get('name', '')} {event.get('requestURI', '')}"
        if name in body or ref.get("resource") == "events" or event["verb"] == "create":
            counts[f"{event['verb']} {'/'.join(filter(None, (ref.get('resource'), ref.get('subresource'))))}"] += 1
    return counts


def measure(plane: ControlPlane, namespace: Namespace, jobs: int) -> dict[str, Any]:
    """Run jobs one after the other; return medians and the requests per job."""
    pods, peftjobs = Watch(plane, "/api/v1/pods"), Watch(plane, "/apis/peftjob.io/v1alpha1/peftjobs")
    time.sleep(2)
    created, finished, writes, events, detail = [], [], [], [], Counter()
    for number in range(jobs + 1):
        name = f"job-{number}"
        lines = sum(1 for _ in plane.audit_events())
        start = time.monotonic()
        namespace.submit(name)

        def mine(obj: dict[str, Any], name: str = name) -> bool:
            return obj["metadata"].get("labels", {}).get("peftjob.io/job-name") == name

        def done(obj: dict[str, Any], name: str = name) -> bool:
            return obj["metadata"]["name"] == name and obj.get("status", {}).get("state") == "Succeeded"

        wait(f"{name} to succeed", lambda done=done: peftjobs.first(done))
        time.sleep(1.5)  # the last Event, and whatever a watch still brings
        if number == 0:
            continue  # the first one warms caches
        both = pods.first(mine, 2)
        ended = pods.first(lambda o: mine(o) and o["status"].get("phase") == "Succeeded", 2)
        told = peftjobs.first(done)
        assert both is not None
        assert ended is not None
        assert told is not None
        created.append(both - start)
        finished.append(told - ended)
        counts = kinds(requests_of(plane, lines), name)
        detail += counts
        events.append(counts["create events"])
        writes.append(sum(n for what, n in counts.items() if what.split()[0] in WRITES) - counts["create events"])
    return {
        "writes": statistics.median(writes),
        "events": statistics.median(events),
        "created": statistics.median(created),
        "finished": statistics.median(finished),
        "created_all": created,
        "finished_all": finished,
        "requests_per_job": {what: n / jobs for what, n in sorted(detail.items())},
    }


def at_rest(plane: ControlPlane, namespace: Namespace, finished: int, seconds: float) -> dict[str, int]:
    """Return what the operator asks for while so many finished jobs are there and nothing happens."""
    path = namespace.peftjobs
    have = len(plane.api.get(path)["items"])
    for number in range(have, finished):
        namespace.submit(f"job-{number}", nodes=1)

    def all_done() -> bool:
        states = [job.get("status", {}).get("state") for job in plane.api.get(path)["items"]]
        return states.count("Succeeded") >= finished

    wait(f"{finished} jobs to finish", all_done, limit=600)
    time.sleep(5)
    lines = sum(1 for _ in plane.audit_events())
    time.sleep(seconds)
    idle: Counter[str] = Counter()
    for event in requests_of(plane, lines):
        ref = event.get("objectRef", {})
        if event["verb"] != "watch" and ref.get("resource") != "leases":
            idle[f"{event['verb']} {ref.get('resource', event['requestURI'])}"] += 1
    return dict(idle)


def wait(what: str, probe: Callable[[], object], limit: float = 60) -> None:
    """Wait until a probe returns something true."""
    end = time.monotonic() + limit
    while not probe():
        if time.monotonic() > end:
            raise SystemExit(f"not within {limit:g} s: {what}")
        time.sleep(0.05)


@contextmanager
def control_plane() -> Iterator[tuple[ControlPlane, Operator]]:
    """Run a control plane with fake nodes, the CRD and the operator with the chart's rights."""
    with ControlPlane(fake_nodes=2, pod_run_seconds=2.0) as plane, install_operator(plane) as operator:
        yield plane, operator


def main() -> int:
    """Measure, print the table, and return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--finished", type=int, default=200)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with control_plane() as (plane, operator):
        namespace = Namespace(plane, "bench")
        figures = measure(plane, namespace, args.jobs)
        idle = at_rest(plane, namespace, args.finished, args.idle)
        memory = operator.resident_mib()
    values = (figures["writes"], figures["events"], figures["created"], figures["finished"], float(sum(idle.values())))
    met = 0
    for (what, _, bar), value in zip(BARS, values, strict=True):
        met += value <= bar
        print(f"{what:76} <= {bar:<5g} {value:7.3f}  {'met' if value <= bar else 'missed'}")
    print(f"\nrequests per job: {figures['requests_per_job']}")
    print(f"at rest, {args.finished} finished jobs, {args.idle:g} s: {idle or 'nothing but watches'}")
    print(f"operator: {memory:.0f} MiB resident")
    print("peers, same setup: own writes per job JobSet 7.4, Kubeflow Trainer 7.2; pods exist after 0.08 and 0.12 s")
    print(f"bars met: {met} of {len(BARS)}")
    if args.json:
        args.json.write_text(json.dumps({**figures, "idle": idle, "operator_mib": memory}, indent=1) + "\n")
    return 0 if met == len(BARS) else 1


if __name__ == "__main__":
    sys.exit(main())
