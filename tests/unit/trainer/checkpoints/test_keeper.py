"""When a checkpoint is due, and that no step waits for the store."""

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from peftjob_api import CheckpointInfo, Reason, WaitingInfo
from peftjob_api.checkpoint_spec import CheckpointSpec
from peftjob_trainer.checkpoints import keeper
from peftjob_trainer.checkpoints.keeper import Checkpoints, is_due
from peftjob_trainer.exits import TrainerError

EVERY_10 = CheckpointSpec(every_steps=10, every_minutes=5.0)
TIMED = CheckpointSpec(every_minutes=0.5)


@pytest.mark.parametrize(
    ("spec", "step", "last", "seconds", "want"),
    [
        (EVERY_10, 9, 0, 0.0, False),
        (EVERY_10, 10, 0, 0.0, True),
        (EVERY_10, 12, 0, 0.0, True),
        (EVERY_10, 12, 10, 0.0, False),
        (EVERY_10, 20, 12, 0.0, True),
        (EVERY_10, 13, 12, 300.0, True),
        (TIMED, 500, 0, 29.0, False),
        (TIMED, 2, 1, 30.0, True),
        (TIMED, 0, 0, 900.0, False),
        (TIMED, 7, 7, 900.0, False),
    ],
    ids=[
        "before the first", "every ten steps", "late, since one was being written", "done late", "then on time again",
        "by time, though steps are counted too", "not yet by time", "by time", "nothing was done", "nothing is new",
    ],
)  # fmt: skip
def test_due(spec: CheckpointSpec, step: int, last: int, seconds: float, want: bool) -> None:
    assert is_due(spec, step, last, seconds) is want


class Slow:
    """Takes states; each write lasts until the test lets it end."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.began = threading.Event()
        self.failure: TrainerError | None = None

    def add(self, state: Any) -> CheckpointInfo:
        self.began.set()
        assert self.may_end.wait(30)
        if self.failure is not None:
            raise self.failure
        return CheckpointInfo(step=state.step, uri=f"s3://out/{state.step}")


class State:
    """As much of a state as a keeper looks at."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.tensors = {"trained": torch.zeros(50_000), "exp_avg": torch.zeros(100_000), "method.a": torch.zeros(5_000)}


def made(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> tuple[Checkpoints, list[int]]:
    told: list[int] = []
    monkeypatch.setattr(keeper.dist, "barrier", lambda: None)
    return Checkpoints(EVERY_10, slow, lambda info: told.append(info.step)), told  # type: ignore[arg-type]


def test_steps_go_on_while_one_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    checkpoints, told = made(slow, monkeypatch)
    taken: list[int] = []

    def offer(step: int) -> None:
        checkpoints.offer(step, lambda: taken.append(step) or State(step))  # type: ignore[func-returns-value]

    for step in range(1, 25):
        offer(step)
    assert taken == [10], "one copy at a time is in memory"
    slow.may_end.set()
    checkpoints.close()
    assert told == [10]


def test_the_last_one_is_waited_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "peftjob_trainer")
    slow = Slow()
    checkpoints, told = made(slow, monkeypatch)
    checkpoints.offer(10, lambda: State(10))  # type: ignore[arg-type, return-value]
    assert slow.began.wait(30)
    slow.may_end.set()
    assert checkpoints.stop(13, lambda: State(13)) == "saved as s3://out/13"  # type: ignore[arg-type, return-value]
    assert told == [10, 13]
    assert "step 13: s3://out/13 (0.20 MB trained, 0.40 MB moments, 0.02 MB of the method)" in caplog.text


def test_a_step_that_is_saved_is_not_saved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    slow.may_end.set()
    checkpoints, told = made(slow, monkeypatch)
    checkpoints.resumed(CheckpointInfo(step=13, uri="s3://out/13"))
    assert checkpoints.stop(13, lambda: State(13)) == "saved as s3://out/13"  # type: ignore[arg-type, return-value]
    assert told == [13]


def test_the_end_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "STOP_SECONDS", 0.01)
    slow = Slow()
    checkpoints, _ = made(slow, monkeypatch)
    said = checkpoints.stop(13, lambda: State(13))  # type: ignore[arg-type, return-value]
    slow.may_end.set()
    assert "no checkpoint of it could be written" in said
    assert "there is none yet" in said


def test_a_store_that_fails_costs_no_step(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    slow.failure = TrainerError(Reason.STORAGE_UNAVAILABLE, "s3 is away")
    slow.may_end.set()
    checkpoints, told = made(slow, monkeypatch)
    said = checkpoints.stop(13, lambda: State(13))  # type: ignore[arg-type, return-value]
    assert "s3 is away" in said
    assert "s3 is away" in caplog.text
    assert not checkpoints.is_superseded
    slow.failure = None
    checkpoints.stop(14, lambda: State(14))  # type: ignore[arg-type, return-value]
    assert told == [14]


def test_checkpoints_wait_for_the_store_and_training_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of the moment is tried after growing pauses, not only when the next one is due."""
    slow, now = Slow(), [0.0]
    slow.failure = TrainerError(Reason.STORAGE_UNAVAILABLE, "s3 is away")
    slow.may_end.set()
    taken, told, waits = list[int](), list[int](), list[WaitingInfo | None]()
    monkeypatch.setattr(keeper.random, "random", lambda: 0.5)
    checkpoints = Checkpoints(
        CheckpointSpec(every_steps=100),
        slow,
        lambda info: told.append(info.step),
        waits.append,
        lambda: now[0],  # type: ignore[arg-type]
    )

    def step(number: int) -> None:
        checkpoints.offer(number, lambda: taken.append(number) or State(number))  # type: ignore[func-returns-value, return-value, arg-type]
        checkpoints._is_idle(30)
        now[0] += 0.5

    for number in range(98, 200):
        step(number)
    tries = [number / 2 for number in taken]
    assert taken[0] == 100
    assert all(later - earlier <= 60 for earlier, later in itertools.pairwise(tries))
    assert 5 < len(taken) < 12, "ever more seldom"
    assert told == []
    assert {info.since for info in waits if info} == {waits[0].since if waits[0] else None}
    slow.failure = None
    number = 200
    while not told:
        step(number)
        number += 1
    assert told == [taken[-1]]
    assert waits[-1] is None
    assert number < 200 + 120, "soon after the store is back"
    before = len(taken)
    step(number)
    assert len(taken) == before, "then by the spec alone"


@pytest.mark.parametrize("error", [ValueError("a mistake"), TrainerError(Reason.NON_FINITE_LOSS, "a mistake")])
def test_what_is_not_the_store_s_fault_is_not_told_as_such(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    waits = list[WaitingInfo | None]()
    slow = Slow()
    slow.failure = error  # type: ignore[assignment]
    slow.may_end.set()
    checkpoints = Checkpoints(EVERY_10, slow, waits=waits.append)  # type: ignore[arg-type]
    checkpoints.offer(10, lambda: State(10))  # type: ignore[arg-type, return-value]
    checkpoints.close()
    assert "a mistake" in caplog.text
    assert waits == []


def test_the_last_step_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    slow.may_end.set()
    checkpoints, told = made(slow, monkeypatch)
    checkpoints.finish(17, lambda: State(17))  # type: ignore[arg-type, return-value]
    checkpoints.close()
    assert told == [17]
    again, told = made(slow, monkeypatch)
    again.resumed(CheckpointInfo(step=17, uri="s3://out/17"))
    again.finish(17, lambda: pytest.fail("it is there"))
    again.close()
    assert told == [17]


def test_a_gang_that_lost_its_claim_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    slow.failure = TrainerError(Reason.SUPERSEDED, "a newer gang works there")
    slow.may_end.set()
    checkpoints, _ = made(slow, monkeypatch)
    checkpoints.offer(10, lambda: State(10))  # type: ignore[arg-type, return-value]
    with pytest.raises(TrainerError) as error:
        checkpoints.stop(11, lambda: State(11))  # type: ignore[arg-type, return-value]
    assert error.value.reason is Reason.SUPERSEDED
    assert checkpoints.is_superseded


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed by peer"), [7]),
        (TrainerError(Reason.INTERRUPTED, "told to stop"), [7]),
        (TrainerError(Reason.NON_FINITE_LOSS, "the loss is nan"), []),
        (ValueError("a mistake of ours"), []),
    ],
    ids=["a lost peer", "told to stop in an evaluation", "a loss that is not finite", "anything else"],
)
def test_what_is_done_is_saved_if_that_may_help(
    error: Exception, want: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    slow.may_end.set()
    checkpoints, told = made(slow, monkeypatch)
    with pytest.raises(type(error)), checkpoints.rescuing(lambda: 7, lambda: State(7)):  # type: ignore[arg-type, return-value]
        raise error
    assert told == want


def test_what_was_saved_when_told_to_stop_is_not_saved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    slow.may_end.set()
    checkpoints, told = made(slow, monkeypatch)

    def stopped() -> None:
        with checkpoints.rescuing(lambda: 7, lambda: State(7)):  # type: ignore[arg-type, return-value]
            checkpoints.stop(7, lambda: State(7))  # type: ignore[arg-type, return-value]
            raise TrainerError(Reason.INTERRUPTED, "told to stop")

    with pytest.raises(TrainerError) as error:
        stopped()
    assert error.value.message == "told to stop"
    assert told == [7]


def test_ranks_without_a_store_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper.dist, "barrier", lambda: None)
    checkpoints = Checkpoints(EVERY_10)

    def never() -> Any:
        raise AssertionError("it takes no copy")

    checkpoints.offer(10, never)
    assert checkpoints.stop(10, never) == "rank 0 tells of its checkpoint"
    checkpoints.close()
