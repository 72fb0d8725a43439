"""Which faults hit a job, and when: seeded, pure, the same for the lab and the two-node cluster.

A plan is a row of strikes. Each waits for its moment in the life of the job, hits, and, if it lasts, ends by itself
after some seconds; several may last at once. What a strike hits (which pod, which rank) is told by numbers that
whoever carries it out takes modulo what is there.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """What can happen."""

    KILL_RANK = "rank killed"
    KILL_LAUNCHER = "launcher killed"
    KILL_POD = "pod's processes killed"
    DELETE_POD = "pod deleted"
    DRAIN = "pod drained"
    PAUSE_RANK = "rank paused"
    SUSPEND = "suspended and resumed"
    NODE_DIES = "node died"
    NODE_VANISHES = "node vanished and came back"
    CUT_NETWORK = "network of a pod cut"
    S3_AWAY = "S3 away"
    S3_SLOW = "S3 slow"
    S3_FAILING = "S3 failing"
    DISK_FULL = "disk full"
    KILL_OPERATOR = "operator killed"
    PAUSE_API = "API server paused"


class Moment(StrEnum):
    """When a strike hits."""

    STEP = "step"
    """At a step of training, from the lowest that the running gang has not passed."""
    START = "start"
    """So many tenths of a second after a pod began to run."""
    WRITE = "write"
    """While the gang writes an object of some kind: the write is held until the strike has hit."""


class Write(StrEnum):
    """Objects at the output, by what they are for."""

    CLAIM = "claim"
    """Each change of the claim: taken, a checkpoint listed, files announced, the adapter committed."""
    CHECKPOINT = "checkpoint"
    """A file of a checkpoint."""
    ADAPTER = "adapter"
    """A file of the adapter."""
    MANIFEST = "manifest"
    """The adapter's manifest.json, after it was committed."""


@dataclass(frozen=True)
class Kind:
    """What is known of a fault."""

    weight: int
    """How often it is drawn."""
    seconds: tuple[float, float] = (0, 0)
    """The least and the most that it lasts."""
    counts: bool = False
    """Whether it may cost a restart, of which a job has a number."""
    disrupts: bool = False
    """Whether it may end a gang without costing a restart."""


KINDS: Final[dict[Fault, Kind]] = {
    Fault.KILL_RANK: Kind(4, counts=True),
    Fault.KILL_LAUNCHER: Kind(2, counts=True),
    Fault.KILL_POD: Kind(3, counts=True),
    Fault.DELETE_POD: Kind(3, disrupts=True),
    Fault.DRAIN: Kind(3, disrupts=True),
    Fault.PAUSE_RANK: Kind(2, (1, 40), counts=True),
    Fault.SUSPEND: Kind(2, (0, 4), disrupts=True),
    Fault.NODE_DIES: Kind(1, (3, 15), counts=True, disrupts=True),
    Fault.NODE_VANISHES: Kind(1, (5, 150), counts=True, disrupts=True),
    Fault.CUT_NETWORK: Kind(1, (2, 8), counts=True, disrupts=True),
    Fault.S3_AWAY: Kind(2, (1, 6), counts=True),
    Fault.S3_SLOW: Kind(1, (2, 6)),
    Fault.S3_FAILING: Kind(2, (1, 5), counts=True),
    Fault.DISK_FULL: Kind(1, (2, 5), counts=True),
    Fault.KILL_OPERATOR: Kind(2, (0, 2)),
    Fault.PAUSE_API: Kind(1, (1, 4)),
}


@dataclass(frozen=True)
class Strike:
    """One fault at one moment."""

    fault: Fault
    moment: Moment
    at: int
    """The step, or tenths of a second after the start, or how many writes of the kind are let through before."""
    write: Write | None = None
    target: int = 0
    """Which pod, rank or node, modulo how many there are."""
    seconds: float = 0
    """How long it lasts."""

    def __str__(self) -> str:
        """Return it for people."""
        when = {
            Moment.STEP: f"at step {self.at}",
            Moment.START: f"{self.at / 10:g} s after a start",
            Moment.WRITE: f"at write {self.at + 1} of a {self.write}",
        }[self.moment]
        lasts = f" for {self.seconds:g} s" if self.seconds else ""
        return f"{self.fault} ({self.target}){lasts} {when}"


@dataclass(frozen=True)
class Shape:
    """How many ranks a job has, and where."""

    nodes: int
    per_node: int

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.nodes} x {self.per_node}"


@dataclass(frozen=True)
class Plan:
    """What happens to one job."""

    seed: int
    shape: Shape
    strikes: tuple[Strike, ...]
    max_restarts: int
    """`spec.maxRestarts`: where it is fewer than what the strikes may cost, the job may end as Failed."""
    steps: int = 0
    """Of training; 0: `STEPS`."""

    @property
    def name(self) -> str:
        """Return the job's name."""
        return f"plan-{self.seed}" if self.seed >= 0 else f"undisturbed{self.seed}"


SHAPES: Final = (Shape(2, 1), Shape(2, 1), Shape(1, 2))
STEPS: Final = 40
"""Of each job."""
SAVED_EVERY: Final = 5
"""Steps between two checkpoints."""
_MOMENTS: Final = {Moment.STEP: 6, Moment.START: 2, Moment.WRITE: 3}
"""How often each is drawn."""
PATIENT: Final = 20
"""Restarts that no plan uses up."""
_MOST_THAT_COUNT: Final = 3
"""Of a plan: operators wait longer and longer before they try again."""


def draw(seed: int, faults: Sequence[Fault] = tuple(Fault), moments: Sequence[Moment] = tuple(Moment)) -> Plan:
    """Return the plan of a seed: 3 to 6 strikes, of faults and moments that there are where it is used."""
    chance = random.Random(seed)
    steps = sorted(chance.sample(range(1, STEPS - 1), chance.randint(3, 6)))
    strikes: list[Strike] = []
    for number, step in enumerate(steps, 1):
        counted = sum(KINDS[strike.fault].counts for strike in strikes)
        allowed = [f for f in faults if counted < _MOST_THAT_COUNT or not KINDS[f].counts]
        fault = chance.choices(allowed, [KINDS[f].weight for f in allowed])[0]
        strikes.append(_strike(chance, fault, step, moments, is_last=number == len(steps)))
    shape = chance.choice(SHAPES)
    impatient = chance.random() < 0.1
    return Plan(seed, shape, tuple(strikes), chance.randint(0, 1) if impatient else PATIENT)


def _strike(chance: random.Random, fault: Fault, step: int, moments: Sequence[Moment], *, is_last: bool) -> Strike:
    moment = chance.choices(moments, [_MOMENTS[moment] for moment in moments])[0]
    least, most = KINDS[fault].seconds
    seconds, target = round(chance.uniform(least, most), 1), chance.randrange(4)
    if moment is Moment.STEP:
        return Strike(fault, moment, step, target=target, seconds=seconds)
    if moment is Moment.START:
        return Strike(fault, moment, chance.randint(0, 25), target=target, seconds=seconds)
    # Others would come after training, where there are no steps and no starts to wait for any more.
    write = chance.choice(list(Write) if is_last else (Write.CLAIM, Write.CHECKPOINT))
    passes = 0 if write is Write.MANIFEST else chance.randint(0, 2)
    return Strike(fault, moment, passes, write, target, seconds)
