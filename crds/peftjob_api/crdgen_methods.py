"""docs/methods.md: every method, and which task it goes with, from the same table as the API's rules. For `crdgen`."""

from collections.abc import Iterator, Mapping

from .method_spec import VARIANTS
from .pairs import METHODS, TASKS, UNSUPPORTED

_INTRO = """\
# Methods of adaptation

<!-- Generated from crds/peftjob_api by `make generate`: change the models, not this file. -->

`spec.method.type` names one of these; its settings are in the field beside it, and all have defaults
([reference](api.md#specmethod)). Whatever the method, the base stays frozen and may be partitioned, what is trained is
fp32 and whole on every rank, and what is published holds trained values only.

Each pair that is marked `x` trains on two ranks over a partitioned base in tests/numerics/test_pairs.py, in fp32 and
with a bf16 base: all of them by `make test-pairs`, some by `make test`. Each method is compared with HF Trainer and
peft in tests/numerics/test_methods.py.
"""


def methods_page(unsupported: Mapping[tuple[str, str], str] = UNSUPPORTED) -> str:
    """Return the page's Markdown text."""
    return "\n".join([_INTRO, *_matrix(unsupported), *_reasons(unsupported), *_sections()])


def _matrix(unsupported: Mapping[tuple[str, str], str]) -> Iterator[str]:
    yield f"| method | {' | '.join(TASKS)} |"
    yield f"|---|{'---|' * len(TASKS)}"
    for method in METHODS:
        yield f"| {method} | {' | '.join('' if (method, task) in unsupported else 'x' for task in TASKS)} |"
    yield ""


def _reasons(unsupported: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Yield why the others are refused."""
    if unsupported:
        yield "A job with another pair is refused when it is applied:\n"
        yield from (f"- {method} with {task}: {why}." for (method, task), why in unsupported.items())
        yield ""


def _sections() -> Iterator[str]:
    for method, (field, settings) in VARIANTS.items():
        yield f"## {method}\n"
        yield f"`method.{field}`. {' '.join((settings.__doc__ or '').split())}\n"
