"""Whole lives of a PeftJob in the simulation, each told by what its user, its workers and its cluster do.

A life goes on in rounds: the operator reconciles, then everything else takes a step. Workers end only after the
operator has seen them run, as real ones do, so that a fault of the operator may cost time but changes nothing else.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from peftjob_api import WorkerStatus

from .api_in_memory import Crash, Fault
from .builders import URI, Object
from .decisions import result, word
from .simulation import Process, World

ROUNDS = 100
ROUND_SECONDS = 6.0
_TIMES = frozenset(
    ("startTime", "completionTime", "activeSince", "activeSeconds", "lastTransitionTime", "retryAt", "updatedAt")
) | {"time"}


@dataclass(frozen=True)
class Life:
    """What happens to one PeftJob, whatever the operator meets."""

    name: str
    codes: tuple[int, ...] = (0,)
    """With which exit code the workers of each attempt end; those after the last end as the last."""
    user: Callable[[World], None] = lambda world: None
    """Called at the beginning of each round."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    queued: bool = False
    """Whether a queue holds its Jobs back from their creation on."""
    silent: int = 0
    """Attempts whose workers leave no result that can be read."""
    want: str | None = "Succeeded"
    """The state at the end; None where the PeftJob is gone."""
    may_end: Callable[[World, int], bool] = lambda world, attempt: True
    """Whether the workers of an attempt may end by themselves by now."""
    talks: bool = False
    """Whether rank 0 tells of steps and a checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """What a life came to."""

    status: Object
    """Less all times."""
    left: Counter[str]
    """The children that are there at the end, by kind and attempt."""
    events: Counter[tuple[str, str, str]]
    calls: list[str]
    """Of all of the operator's processes, in order."""
    created: Counter[str]
    """Jobs by name."""


class _Talker:
    """Rank 0 as it tells how far it is."""

    async def status(self, namespace: str, pod: object) -> WorkerStatus:
        checkpoint = {"step": 4, "uri": f"{URI}/checkpoints/1/step-4"}
        return WorkerStatus.model_validate({"step": 5, "totalSteps": 9, "loss": 0.5, "checkpoint": checkpoint})


async def live(
    life: Life,
    faults: Mapping[int, Fault] = {},
    *,
    meddle: Callable[[int, World, list[Process]], None] = lambda number, world, operators: None,
    operators: int = 1,
    turns: Callable[[], int] = lambda: 0,
) -> Outcome:
    """Live a life.

    Args:
        life: What happens.
        faults: What the operator's calls meet, counted over all its processes.
        meddle: Called with the number of each round, before the watches tell.
        operators: How many run at once, by mistake.
        turns: How many turns another one has before a call arrives.

    Raises:
        AssertionError: The life does not end, or two gangs are there at once.
    """
    world = World(2, **life.spec)
    world.has_queue = life.queued
    created: Counter[str] = Counter()
    calls: list[str] = []

    def on_create(job: Object) -> None:
        assert not world.objects["jobs"], "two Jobs at once"
        assert not world.living(), "workers of an earlier gang are alive"
        created[job["metadata"]["name"]] += 1

    def start() -> Process:
        process = Process(world, on_create, _Talker() if life.talks else None)
        process.kube.calls, process.kube.faults, process.kube.turns = calls, dict(faults), turns
        return process

    running = [start() for _ in range(operators)]
    quiet = 0
    for number in range(ROUNDS):
        before = world.version
        life.user(world)
        meddle(number, world, running)
        for process in running:
            process.tell()
        outcomes = await asyncio.gather(*(process.reconcile() for process in running), return_exceptions=True)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Crash):
                running[index].end()
                running[index] = start()
            elif isinstance(outcome, BaseException):
                raise outcome
        _go_on(world, life)
        world.wait(ROUND_SECONDS)
        is_over = not world.objects["peftjobs"] or (life.want and world.status().get("state") == life.want)
        quiet = quiet + 1 if is_over and world.version == before else 0
        if quiet >= 3:
            break
    else:
        raise AssertionError(f"no end: {world.status()}")
    left = Counter(
        f"{kind} {obj['metadata'].get('labels', {}).get('peftjob.io/attempt', '')}"
        for kind, objects in world.objects.items() if kind != "peftjobs"
        for obj in objects.values()
    )  # fmt: skip
    return Outcome(timeless(world.status()), left, Counter(world.events), calls, created)


def _go_on(world: World, life: Life) -> None:
    """Let the cluster take a step."""
    world.run_node_controller()
    world.run_job_controller()
    for pod in list(world.objects["pods"].values()):
        attempt = int(pod["metadata"]["labels"]["peftjob.io/attempt"])
        code = life.codes[min(attempt, len(life.codes)) - 1]
        may_end = world.status().get("state") == "Running" and life.may_end(world, attempt)
        if may_end or "deletionTimestamp" in pod["metadata"] or pod["status"]["phase"] != "Running":
            message = word("InternalError", code, "it broke") if code else result() if attempt > life.silent else ""
            world.run_kubelet(pod, code, message)


def timeless(value: Any) -> Any:
    """Return a status without anything that depends on when things happened."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in _TIMES}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value
