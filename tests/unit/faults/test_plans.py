"""Plans are functions of their seeds, and say what they may cost."""

from collections import Counter

from faults.plans import KINDS, STEPS, Fault, Moment, draw

PLANS = [draw(seed) for seed in range(400)]


def test_a_seed_always_gives_the_same_plan() -> None:
    assert [draw(seed) for seed in range(400)] == PLANS
    assert len({plan.strikes for plan in PLANS}) == len(PLANS)


def test_each_has_three_to_six_strikes_within_the_life_of_a_job() -> None:
    for plan in PLANS:
        assert 3 <= len(plan.strikes) <= 6
        for strike in plan.strikes:
            least, most = KINDS[strike.fault].seconds
            assert least <= strike.seconds <= most
            assert (strike.write is not None) == (strike.moment is Moment.WRITE)
            assert strike.moment is not Moment.STEP or 0 < strike.at < STEPS


def test_every_fault_comes_at_every_moment() -> None:
    drawn = Counter((strike.fault, strike.moment) for plan in PLANS for strike in plan.strikes)
    assert drawn.keys() == {(fault, moment) for fault in Fault for moment in Moment}


def test_most_jobs_can_survive_and_some_can_not() -> None:
    costs = [sum(KINDS[strike.fault].counts for strike in plan.strikes) > plan.max_restarts for plan in PLANS]
    assert 0.02 < sum(costs) / len(PLANS) < 0.2


def test_only_faults_that_can_be_carried_out_are_drawn() -> None:
    some = (Fault.KILL_RANK, Fault.DRAIN)
    assert {strike.fault for seed in range(50) for strike in draw(seed, some).strikes} == set(some)
