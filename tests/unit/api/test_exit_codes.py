"""Which of a gang's exit codes is the one that tells why."""

import itertools

import pytest
from peftjob_api import PERMANENT, ExitCode, most_specific


@pytest.mark.parametrize(
    ("codes", "want"),
    [
        ([], ExitCode.DONE),
        ([0, 0], ExitCode.DONE),
        ([0, 71], ExitCode.LOST_PEER),
        ([71, 65, 71], ExitCode.BAD_DATA),
        ([71, -9], -9),
        ([71, 137, 71], 137),
        ([71, 1], 1),
        ([71, 75], ExitCode.INTERRUPTED),
        ([75, 75, 0], ExitCode.INTERRUPTED),
        ([75, -15], -15),
        ([70, -9], ExitCode.INTERNAL),
        ([70, 69], ExitCode.UNAVAILABLE),
        ([69, 66], ExitCode.INPUT_NOT_FOUND),
        ([65, 66], ExitCode.INPUT_NOT_FOUND),
        ([64, 66], ExitCode.BAD_CONFIG),
        ([64, 78], ExitCode.NOT_PERMITTED),
        ([-6, -9], -6),
    ],
    ids=[
        *("no rank at all", "all ranks done", "a done rank and one that lost its peer", "one knows, two lost a peer"),
        *("one was killed, one lost its peer", "one was killed for memory", "one died unnamed, one lost its peer"),
        *("an interruption before a lost peer", "interrupted ranks", "an unnamed signal before an interruption"),
        *("a named error before a signal", "storage before a crash", "a missing input before storage"),
        *("a missing input before bad data", "bad configuration before a missing input", "no permission before all"),
        "two signals: the first rank's",
    ],
)
def test_the_most_specific_code(codes: list[int], want: int) -> None:
    assert most_specific(codes) == want
    assert type(most_specific(codes)) is int


def test_the_order_of_ranks_does_not_matter_among_named_codes() -> None:
    for codes in itertools.combinations(ExitCode, 3):
        assert len({most_specific(list(order)) for order in itertools.permutations(codes)}) == 1


def test_a_permanent_error_of_one_rank_is_the_gangs() -> None:
    others = [code for code in (*ExitCode, 1, -9, 137) if code not in PERMANENT]
    for permanent in PERMANENT:
        assert most_specific([*others, permanent]) == permanent
