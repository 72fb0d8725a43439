"""A pair of a method and a task that do not go together is refused, with a reason and with those that can."""

from types import SimpleNamespace

from peftjob_api.crdgen_methods import methods_page
from peftjob_api.pairs import METHODS, TASKS, UNSUPPORTED, pair_rules, supported

SOME = {("IA3", "CausalLM"): "it is a test", ("OFT", "CausalLM"): "so is it"}


def job(method: str, task: str) -> SimpleNamespace:
    return SimpleNamespace(method=SimpleNamespace(type=method), task=SimpleNamespace(type=task))


def test_a_rule_refuses_the_pairs_of_a_task_and_names_the_methods_that_can() -> None:
    (rule,) = pair_rules(SOME)
    refused = {(m, t) for m in METHODS for t in TASKS if not rule.holds(job(m, t))}
    assert refused == SOME.keys()
    can = rule.message.rpartition("use one of ")[2].split(", ")
    assert can == [m for m in METHODS if m not in ("IA3", "OFT")]


def test_the_page_marks_what_is_supported_and_says_why_the_rest_is_not() -> None:
    lines = methods_page(SOME).splitlines()
    row = next(line for line in lines if line.startswith("| IA3 "))
    assert row.split("|")[2:-1] == ["  ", *[" x "] * (len(TASKS) - 1)]
    assert "- IA3 with CausalLM: it is a test." in lines


def test_the_table_names_methods_and_tasks_that_there_are() -> None:
    assert set(UNSUPPORTED) <= {(m, t) for m in METHODS for t in TASKS}
    assert len(supported()) == len(METHODS) * len(TASKS) - len(UNSUPPORTED)
