"""Which method goes with which task: the one table of it. Read by the rules of `spec`, by `crdgen` and by the tests."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

from .base import Rule
from .method_spec import MethodSpec
from .task_spec import TaskSpec

METHODS: Final[tuple[str, ...]] = get_args(MethodSpec.model_fields["type"].annotation)
TASKS: Final[tuple[str, ...]] = get_args(TaskSpec.model_fields["type"].annotation)

UNSUPPORTED: Final[Mapping[tuple[str, str], str]] = MappingProxyType({})
"""(method, task) -> why they do not go together, as the end of a sentence. All other pairs do."""


def supported(unsupported: Mapping[tuple[str, str], str] = UNSUPPORTED) -> list[tuple[str, str]]:
    """Return all pairs of a method and a task that go together."""
    return [(method, task) for method in METHODS for task in TASKS if (method, task) not in unsupported]


def pair_rules(unsupported: Mapping[tuple[str, str], str] = UNSUPPORTED) -> tuple[Rule, ...]:
    """Return the rules, of the spec, that its method and its task go together."""
    return tuple(_pair_rule(unsupported, method, task) for method, task in unsupported)


def _pair_rule(unsupported: Mapping[tuple[str, str], str], method: str, task: str) -> Rule:
    others = ", ".join(other for other in METHODS if (other, task) not in unsupported)

    def holds(spec: Any) -> bool:
        return (spec.method.type, spec.task.type) != (method, task)

    return Rule(
        f"self.method.type != '{method}' || self.task.type != '{task}'",
        holds,
        f"method {method} does not go with task {task}, since {unsupported[method, task]}: use one of {others}",
        ".method.type",
    )
