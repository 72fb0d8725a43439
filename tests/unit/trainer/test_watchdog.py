"""Which rank lags, told from signs of life; how long a step may take."""

import queue
from collections.abc import Sequence

import pytest
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.watchdog import Judge, Pulse, Sign, Watchdog, hang_seconds, patience
from torch.distributed import TCPStore

READS = 15
TRAINS = "in step 13"


def signs(*beats: int, number: int = 1, waits: Sequence[float | None] = ()) -> dict[int, Sign]:
    """Return a sign of each rank."""
    each = [*waits, *[None] * len(beats)]
    return {rank: Sign(number, f"tune-1-{rank}", TRAINS, count, each[rank]) for rank, count in enumerate(beats)}


def read(judge: Judge, silent: Sequence[int] = (), times: int = READS, left: Sequence[int] = ()) -> list[str | None]:
    """Let a judge read so many times: all ranks but some go on to give signs of life."""
    found = []
    for number in range(times):
        each = signs(*[5] * 4, number=number + 2)
        found.append(judge.see({
            rank: Sign(1 if rank in silent else sign.number, sign.host, sign.place, 5, left=rank in left)
            for rank, sign in each.items()
        }))  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("silent", "want"),
    [
        ([2], "rank 2 (on tune-1-2) in step 13"),
        ([1, 3], "ranks 1 (on tune-1-1), 3 (on tune-1-3) in step 13"),
    ],
)
def test_a_rank_without_signs_of_life_is_named(silent: list[int], want: str) -> None:
    *before, last = read(Judge(), silent, READS + 1)
    assert before == [None] * READS, "not a moment too early"
    assert last is not None
    assert f"no sign of life from {want}: " in last


def test_a_rank_that_comes_back_in_time_is_forgiven() -> None:
    judge = Judge()
    assert read(judge, [2], READS) == [None] * READS
    assert read(judge, [], 2) == [None, None]
    assert read(judge, [2], READS) == [None] * READS


def test_a_rank_that_has_left_is_not_missed() -> None:
    assert read(Judge(), [2], 3 * READS, left=[2]) == [None] * 3 * READS


@pytest.mark.parametrize(
    ("beats", "want"),
    [
        ((40, 39, 40), "rank 1 (on tune-1-1) lags in step 13, the others have waited for 70 s"),
        ((39, 40, 39), "ranks 0 (on tune-1-0), 2 (on tune-1-2) lags in step 13, the others have waited for 70 s"),
        ((40, 40, 40), "no rank got on for 70 s in step 13, and none lags: look at the network"),
    ],
    ids=["one", "two", "none"],
)
def test_the_rank_with_the_fewest_beats_lags(beats: tuple[int, ...], want: str) -> None:
    assert Judge().see(signs(*beats, waits=[61.0, None, 70.0])) == want
    assert Judge().see(signs(*beats)) is None, "nobody's patience is over"


@pytest.mark.parametrize(
    ("phase", "paces", "want"),
    [
        ("Training", [2.0, 2.0], 480),
        ("Training", [2.0, 2.0, 40.0], 60),
        ("Training", [9.0, 90.0, 9.0], 90),
        ("Evaluating", [2.0] * 20, 480),
        ("Loading", [], None),
        ("Publishing", [2.0] * 20, None),
    ],
    ids=["first steps", "quick steps", "slow steps", "evaluation", "loading", "publishing"],
)
def test_patience(phase: str, paces: list[float], want: float | None) -> None:
    assert patience(phase, paces, 60) == want


def test_what_the_environment_says() -> None:
    assert [hang_seconds({"PEFTJOB_HANG_SECONDS": text}) for text in ("", "0", "90.5")] == [60, 0, 90.5]
    assert hang_seconds({}) == 60
    for text in ("soon", "-1", "inf", "nan"):
        with pytest.raises(TrainerError, match=f"PEFTJOB_HANG_SECONDS is '{text}'"):
            hang_seconds({"PEFTJOB_HANG_SECONDS": text})


@pytest.mark.parametrize(
    ("rank", "want"),
    [
        (0, "no sign of life from rank 1 (on a node not known yet) at its start: "),
        (1, "rank 0 answers no more: "),
    ],
)
def test_a_rank_that_stops_before_its_first_sign_is_named(rank: int, want: str) -> None:
    """It has met the others, and holds its connection."""
    found: queue.Queue[TrainerError] = queue.Queue()
    store = TCPStore("127.0.0.1", 0, is_master=True)
    watchdog = Watchdog(rank, 2, store, Pulse(), found.put, least=0.6)
    assert want in str(found.get(timeout=60))
    watchdog.stop()
