"""Which method goes with which task: the one table of it. Read by the rules of `spec`, by `crdgen` and by the tests."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

from .base import Rule
from .method_spec import MethodSpec
from .task_spec import TaskSpec

METHODS: Final[tuple[str, ...]] = get_args(MethodSpec.model_fields["type"].annotation)
TASKS: Final[tuple[str, ...]] = get_args(TaskSpec.model_fields["type"].annotation)

_HEADED: Final = ("SequenceClassification", "TokenClassification")
"""Tasks with a head of their own."""
_OF_TEXT: Final[Mapping[str, str]] = {
    "PromptTuning": "an image has no tokens that virtual ones could stand before",
    "PTuning": "an image has no tokens that virtual ones could stand before",
    "PrefixTuning": "models of images take no keys and values from outside",
    "TrainableTokens": "an image has no tokens",
}
"""Methods that a model of images has nothing for -> why."""

_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "Ranking": ("LoRA",),
    "PreferenceOptimisation": ("LoRA", "AdaLoRA", "VeRA", "LoHa", "LoKr", "OFT", "IA3"),
}
"""Tasks that only some methods have been shown to learn so far."""
_SHARED: Final = (
    "encoder and decoder share one embedding, which would stay whole on each rank through the encoder's backward pass"
)

UNSUPPORTED: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        (method, task): "no test shows yet that it learns this task"
        for task, shown in _SHOWN.items()
        for method in METHODS
        if method not in shown
    }
    | {("TrainableTokens", "Seq2SeqLM"): _SHARED}
    | {("TrainableTokens", task): "peft cannot publish the head of this task beside the tokens" for task in _HEADED}
    | {(method, "ImageClassification"): why for method, why in _OF_TEXT.items()}
    | {("BitFit", "PreferenceOptimisation"): "it trains the base itself, which this task needs as it was"}
)
"""(method, task) -> why they do not go together, as the end of a sentence. All other pairs do."""


def supported(unsupported: Mapping[tuple[str, str], str] = UNSUPPORTED) -> list[tuple[str, str]]:
    """Return all pairs of a method and a task that go together."""
    return [(method, task) for method in METHODS for task in TASKS if (method, task) not in unsupported]


def pair_rules(unsupported: Mapping[tuple[str, str], str] = UNSUPPORTED) -> tuple[Rule, ...]:
    """Return the rules, of the spec, that its method and its task go together: one for each task."""
    tasks = dict.fromkeys(task for _, task in unsupported)
    return tuple(_pair_rule(unsupported, task) for task in tasks)


def _pair_rule(unsupported: Mapping[tuple[str, str], str], task: str) -> Rule:
    methods = [method for method in METHODS if (method, task) not in unsupported]

    def holds(spec: Any) -> bool:
        return spec.task.type != task or spec.method.type in methods

    return Rule(
        f"self.task.type != '{task}' || self.method.type in {methods!r}",
        holds,
        f"method.type does not go with task {task} (docs/methods.md says why): use one of {', '.join(methods)}",
        ".method.type",
    )
