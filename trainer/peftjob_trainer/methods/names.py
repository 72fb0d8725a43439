"""Modules by the names that users write: whole ones, or the last parts of dotted ones. Used by the methods."""

from collections.abc import Collection, Sequence
from typing import Final

from peftjob_api import Reason

from ..exits import TrainerError

_MAX_SHOWN: Final = 20


def check_names(wanted: Sequence[str], there: Collection[str], field: str, called: str) -> None:
    """Raise unless each name means a module.

    Args:
        wanted: By the user.
        there: Dotted names of the modules that can be meant.
        field: Of the spec, for messages.
        called: What such a module is called in messages.

    Raises:
        TrainerError: `TARGET_MODULES_NOT_FOUND`.
    """
    missing = [target for target in wanted if not any(is_named(name, target) for name in there)]
    if missing:
        names = sorted({name.rpartition(".")[2] for name in there} - {""})
        raise TrainerError(
            Reason.TARGET_MODULES_NOT_FOUND,
            f"no {called} of the base model is named {', '.join(missing)}: set {field} to some of "
            f"{', '.join(names[:_MAX_SHOWN])}{' ...' if len(names) > _MAX_SHOWN else ''}",
        )


def is_named(name: str, target: str) -> bool:
    """Tell whether a module's dotted name is, or ends in, a name that a user wrote."""
    return name == target or name.endswith(f".{target}")
