"""Which shard group a job takes; pure. Called by `session` and by the command `plan`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from peftjob_api import PeftJobSpec

from ..sharding.groups import ShardGroup, Topology, candidates, shard_group
from .demand import Demand, Parts

RESERVE: Final = 0.1
"""Share of a rank's memory that stays free: predictions are off by some per cent, and allocators waste some."""
_GIB: Final = 2**30

Sharding = Literal["Auto", "Replicate", "Node", "Full"]


@dataclass(frozen=True)
class Option:
    """A shard group, and what it needs."""

    group: ShardGroup
    parts: Parts
    memory: int
    """Bytes that each rank can have."""
    spare: int = 0
    """Bytes for more gathered blocks than must be there at once: what stays need not be gathered again. In `parts`."""

    @property
    def fits(self) -> bool:
        """Whether the predicted peak leaves the reserve free."""
        return self.parts.total <= usable(self.memory)


def usable(memory: int) -> int:
    """Return what may be planned with."""
    return int(memory * (1 - RESERVE))


def topology_of(spec: PeftJobSpec) -> Topology:
    """Return where the ranks of a job are."""
    return Topology(spec.workers.nodes, spec.workers.ranks_per_node)


def options(demand: Demand, topology: Topology, memory: int, sharding: Sharding) -> list[Option]:
    """Return the groups to choose from, the smallest first: one, unless sharding is `Auto`."""
    groups = candidates(topology) if sharding == "Auto" else [shard_group(sharding, topology)]
    return [Option(group, demand.on(group.ranks), memory) for group in groups]


def choose(found: Sequence[Option], *, is_rough: bool = False) -> Option | None:
    """Return the first option that fits; if none does, but sizes are only guessed, the last, which needs the least."""
    return next((option for option in found if option.fits), found[-1] if is_rough else None)


def spending(option: Option, base_bytes: int) -> Option:
    """Return an option that spends half of what it leaves on gathered blocks that stay for the backward pass.

    For accelerators: on a CPU, what a heap takes is not told well enough from what lives in it.
    """
    spare = min((usable(option.memory) - option.parts.total) // 2, base_bytes)
    if option.group.ranks == 1 or spare <= 0:
        return option
    return replace(option, spare=spare, parts=replace(option.parts, gathered=option.parts.gathered + spare))


def named(group: ShardGroup) -> str:
    """Return a group for people, such as `Node (8 ranks)`."""
    return f"{group.kind} ({group.ranks} rank{'s' if group.ranks > 1 else ''})"


def size(number: float) -> str:
    """Return bytes for people, such as `12.3 GiB`."""
    return f"{number / _GIB:.1f} GiB" if number >= _GIB else f"{number / 2**20:.0f} MiB"


def writing_costs(demand: Demand, option: Option) -> str | None:
    """Return a line on what each evaluation gathers to let the model write; None: it does not write."""
    cost = demand.writing
    if cost is None:
        return None
    if option.group.ranks == 1:
        return "what the model writes in an evaluation gathers nothing: each rank has all of the base"
    read = f" and {size(cost.per_batch)} to read each batch" if cost.per_batch else ""
    return (
        f"what the model writes in an evaluation: each rank gathers up to {size(cost.gathered)} of the base, for "
        f"{cost.batches} batch(es) of {cost.tokens} tokens, each {size(cost.per_token)}{read}: lower "
        f"spec.training.evaluation.generate.maxSamples or .maxNewTokens for less"
    )


def table(found: Sequence[Option], taken: Option | None) -> list[str]:
    """Return lines that show what each option needs, by parts, and which is taken."""
    columns = ("base", "gathered", "activations", "trained", "runtime")
    lines = [f"{'shard group':24}" + "".join(f"{column:>13}" for column in (*columns, "peak", "may use"))]
    for option in found:
        parts = [getattr(option.parts, column) for column in columns]
        cells = "".join(f"{size(number):>13}" for number in (*parts, option.parts.total, usable(option.memory)))
        verdict = "  taken" if option is taken else "  fits" if option.fits else "  does not fit"
        lines.append(f"{named(option.group):24}{cells}{verdict}")
    return lines
