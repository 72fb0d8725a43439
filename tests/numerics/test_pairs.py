"""Every pair of a method and a task that the API takes trains on a sharded base, as docs/methods.md has it.

Without PEFTJOB_ALL_PAIRS=1 only some of them are run; see `methods.pairs`.
"""

from typing import Any

import methods
import pytest
from methods import EPOCH, OF_METHOD, PAIRS, PRECISIONS, TASKS, run_name
from peftjob_api.pairs import supported
from test_methods import assert_sharded

RUNS = [pytest.param(*pair, id=" ".join(pair)) for pair in PAIRS]


@pytest.mark.parametrize(("method", "task", "precision"), RUNS)
def test_the_pair_trains_on_a_sharded_base(method: str, task: str, precision: str, adapted: Any) -> None:
    name = run_name(OF_METHOD[method], precision, task)
    losses = adapted[0][name]["losses"]
    assert len(losses) == methods.STEPS
    assert sum(losses[-EPOCH:]) < methods.FALLEN * sum(losses[:EPOCH])
    assert_sharded(name, adapted)


def test_there_is_a_run_for_every_pair_that_the_api_takes() -> None:
    runs = {(method, "CausalLM", p) for method in OF_METHOD for p in PRECISIONS} | set(methods.pairs(every=True))
    assert runs == {(method, task, precision) for method, task in supported() for precision in PRECISIONS}


def test_those_that_always_run_have_every_method_every_task_and_both_precisions() -> None:
    some = methods.pairs(every=False)
    others = {task for task in TASKS if task != "CausalLM"}
    assert {task for _, task, _ in some} == others
    assert {method for method, _, _ in some} >= {method for method, task in supported() if others == {task}}
    assert {precision for _, _, precision in some} == set(PRECISIONS)
