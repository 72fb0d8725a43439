"""The frozen base is sharded: after loading, and at every boundary of a module while a step computes."""

from typing import Any

import cases
import pytest


@pytest.mark.parametrize("name", ["deep", "completions, at once", "classes, at once", "checkpointed"])
def test_two_ranks_hold_half_of_the_base_and_what_is_gathered(name: str, two: Any) -> None:
    result = two[0][name]
    base, whole = result["base"], result["whole"]
    assert base["whole"] == whole
    for at_rest in (result["plan"]["baseBytesPerRank"], base["partition"]):
        assert whole / 2 <= at_rest <= 0.55 * whole
    assert base["partition"] < base["peak"] <= 0.55 * whole + 2 * base["largest_block"]


def test_the_bound_is_far_below_the_whole_base(two: Any) -> None:
    base = two[0]["deep"]["base"]
    assert base["largest_block"] < base["whole"] / cases.BLOCKS
    assert base["peak"] < 0.65 * base["whole"]


def test_keeping_what_is_gathered_would_fail_the_bound(two: Any) -> None:
    """The measurement sees it."""
    base = two[0]["deep, everything kept"]["base"]
    assert base["peak"] > base["whole"] > 0.55 * base["whole"] + 2 * base["largest_block"]


def test_each_rank_holds_a_replica(two: Any) -> None:
    base = two[0]["deep, Replicate"]["base"]
    assert base["partition"] == base["peak"] == base["whole"]


def test_one_rank_holds_all(one: Any) -> None:
    assert one["deep"]["plan"]["baseBytesPerRank"] >= one["deep"]["whole"]


def test_the_same_losses_whether_it_is_sharded_or_kept(two: Any) -> None:
    assert two[0]["deep"]["losses"] == two[0]["deep, everything kept"]["losses"]
    assert two[0]["deep"]["losses"] == two[0]["deep, Replicate"]["losses"]
