"""Whole lives, whatever the operator, its API server and its watches meet: they end the same, and nothing is twice."""

import copy
import itertools
import os
import random
from collections.abc import Callable

import pytest
from peftjob_testkit.api_in_memory import Fault
from peftjob_testkit.lives import Life, live
from peftjob_testkit.simulation import Process, World


def is_state(world: World, state: str) -> bool:
    return bool(world.objects["peftjobs"]) and world.status().get("state") == state


def when_running(what: str, act: Callable[[World], None]) -> Callable[[World], None]:
    """Return a user who does something once, when the workers run."""

    def user(world: World) -> None:
        if is_state(world, "Running") and world.once(what):
            act(world)

    return user


def resumes(world: World) -> None:
    if is_state(world, "Suspended") and not world.objects["jobs"] and world.once("resume"):
        world.spec(suspend=False)


def suspends_and_resumes(world: World) -> None:
    if is_state(world, "Running") and world.once("suspend"):
        world.spec(suspend=True)
    resumes(world)


def queue(world: World) -> None:
    """Let the Job begin, take its workers away once, and let it begin anew when all have ended."""
    for job in list(world.objects["jobs"].values()):
        told = is_state(world, "Queued")
        if not job["status"].get("conditions") and (
            (told and world.once("admit"))
            or (is_state(world, "Running") and world.once("preempt"))
            or (told and not world.objects["pods"] and world.once("admit again"))
        ):
            world.write("jobs", {**job, "spec": {**job["spec"], "suspend": not job["spec"].get("suspend")}})


def lose_a_node(world: World) -> None:
    world.dead_nodes.add("node-0")


def evict(world: World) -> None:
    world.delete_pod(world.living()[0])


def take_the_job(world: World) -> None:
    for uid in list(world.objects["jobs"]):
        world.remove("jobs", uid)
    for pod in world.living():
        world.delete_pod(pod)


def disown(world: World) -> None:
    for job in list(world.objects["jobs"].values()):
        job = copy.deepcopy(job)
        del job["metadata"]["ownerReferences"]
        world.write("jobs", job)


def clear_the_status(world: World) -> None:
    world.write("peftjobs", {**world.job, "status": {}})


def stranger(world: World) -> None:
    """Have a Service of the name that the PeftJob needs, and make room once that was told."""
    if world.once("take the name"):
        world.write("services", {"kind": "Service", "metadata": {"name": "tune-workers", "uid": "foreign"}})
    told = [c["reason"] for c in world.status().get("conditions", [])]
    if "NameConflict" in told and world.once("make room"):
        world.remove("services", "foreign")


def never(world: World, attempt: int) -> bool:
    return False


def not_the_first(world: World, attempt: int) -> bool:
    return attempt > 1


LIVES = [
    Life("plain"),
    Life("with progress and checkpoints", talks=True, may_end=lambda world, _: "progress" in world.status()),
    Life("a retry", codes=(70, 0)),
    Life("a failure for good", codes=(65,), want="Failed"),
    Life("restarts used up", codes=(70,), spec={"maxRestarts": 1}, want="Failed"),
    Life("suspended and resumed", user=suspends_and_resumes, may_end=not_the_first),
    Life("suspended from the start", spec={"suspend": True}, user=resumes),
    Life("a queue", queued=True, user=queue, may_end=lambda world, _: world.did("admit again")),
    Life("an eviction", user=when_running("evict", evict), may_end=not_the_first),
    Life("a lost node", user=when_running("lose", lose_a_node), may_end=not_the_first),
    Life("deleted", user=when_running("delete", World.delete_peftjob), may_end=not_the_first, want=None),
    Life("deleted after a time to live", spec={"ttlSecondsAfterFinished": 30}, want=None),
    Life("the Job deleted by somebody", user=when_running("take", take_the_job), may_end=not_the_first),
    Life("the Job disowned by somebody", user=when_running("disown", disown), may_end=not_the_first),
    Life("the status cleared by somebody", user=when_running("clear", clear_the_status)),
    Life("a result that nobody can read", silent=1),
    Life("a deadline", spec={"activeDeadlineSeconds": 60}, may_end=never, want="Failed"),
    Life("a name that is taken", user=stranger),
]


@pytest.mark.parametrize("life", LIVES, ids=[life.name for life in LIVES])
async def test_each_call_of_a_life_meets_each_fault(life: Life) -> None:
    want = await live(life, {})
    assert want.status.get("state") == life.want
    print(f"{life.name}: {len(want.calls)} calls")
    for fault in Fault:
        for number, call in enumerate(want.calls):
            found = await live(life, {number: fault})
            where = f"call {number} ({call}): {fault.value}"
            assert found.status == want.status, where
            assert found.left == want.left, where
            assert found.events <= want.events, where
            assert found.created == want.created, where


ORDINARY = [life for life in LIVES if life.user is Life("").user]
SEEDS = range(int(os.environ.get("PEFTJOB_SEEDS", "5")))


@pytest.mark.parametrize("life", LIVES, ids=[life.name for life in LIVES])
async def test_watches_that_repeat_reorder_and_drop(life: Life) -> None:
    """Each watch begins anew after a while, as Kopf's do; until then anything may be told."""
    want = await live(life)
    for seed in SEEDS:
        chance = random.Random(f"{life.name} {seed}")

        def meddle(number: int, world: World, operators: list[Process], chance: random.Random = chance) -> None:
            for process in operators:
                if number % 4 == 3:
                    process.list_anew()
                else:
                    process.tell_in_disorder(chance)

        found = await live(life, meddle=meddle)
        assert found.status == want.status, seed
        assert (found.left, found.created) == (want.left, want.created), seed
        assert found.events <= want.events, seed


@pytest.mark.parametrize("life", LIVES, ids=[life.name for life in LIVES])
async def test_two_operators_at_once(life: Life) -> None:
    want = await live(life)
    for seed in SEEDS:
        chance = random.Random(f"{life.name} {seed}")
        found = await live(life, operators=2, turns=lambda chance=chance: chance.randrange(4))
        assert found.status == want.status, seed
        assert (found.left, found.created) == (want.left, want.created), seed
        assert found.events <= want.events, seed


@pytest.mark.parametrize("life", ORDINARY, ids=[life.name for life in ORDINARY])
async def test_a_store_that_is_set_back(life: Life) -> None:
    """From each round to each earlier one: versions and uids come again that the operator has seen already."""
    rounds = 10
    for earlier, later in itertools.combinations(range(rounds), 2):
        kept: list[Callable[[], None]] = []

        def meddle(
            number: int, world: World, operators: list[Process],
            earlier: int = earlier, later: int = later, kept: list[Callable[[], None]] = kept,
        ) -> None:  # fmt: skip
            if number == earlier:
                kept.append(world.save())
            if number == later:
                kept[0]()
                for process in operators:
                    process.list_anew()

        found = await live(life, meddle=meddle)
        where = f"from round {later} to {earlier}"
        assert found.status.get("state") == life.want, where
        assert sum(number for kind, number in found.left.items() if kind.startswith("jobs")) <= 1, where
        assert max(found.created.values()) <= 2, where
