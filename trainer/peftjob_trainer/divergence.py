"""What follows from a loss or a gradient that is not finite. Used by `train`; all ranks hold the same numbers.

Such a step is skipped: it would destroy the adapter. The run goes on with the next batch, so one bad example costs one
step of each epoch. A few in a row mean that it is not the batch: what is trained has diverged. Then it goes back to the
last checkpoint before them, and on with the next batch, as PaLM's authors did (Chowdhery et al. 2022, arXiv:2204.02311,
section 5.1): the same batches in the same order would only lead there again. If that does not help, the job fails.
"""

import logging
import math
from collections.abc import Sequence
from typing import Final

from peftjob_api import Reason

from .exits import TrainerError
from .history import History
from .steps import StepRecord

log = logging.getLogger(__name__)

MOST_IN_A_ROW: Final = 3
_SHOWN: Final = 32
_FIXES: Final = "lower spec.training.learningRate, keep maxGradNorm above 0, or set precision to FP32"


def may_return(history: History, to: int | None) -> bool:
    """Tell whether going back to a checkpoint may help: one that was made after the last return, if there was one.

    Args:
        history: Whose last steps were skipped.
        to: The step of the newest checkpoint before them; None: there is none.
    """
    return to is not None and (not history.returns or to > history.returns[-1].at)


def tell_skipped(record: StepRecord, examples: Sequence[int]) -> None:
    """Say that a step was skipped.

    Args:
        record: Of the step.
        examples: Numbers of those in its batch, from 1, in the order of the files.
    """
    log.info("step %d is skipped: %s; its batch: %s", record.step, _what(record), _listed(examples))


def diverged(history: History, examples: Sequence[int]) -> TrainerError:
    """Return the error of a run whose last steps were skipped; `examples` are those of the last one."""
    count, last = history.skipped_in_a_row, history.steps.last
    assert last is not None, "it was skipped"
    back = history.returns[-1] if history.returns else None
    tried = f", also after going back from step {back.at} to step {back.to}" if back else ""
    return TrainerError(
        Reason.NON_FINITE_LOSS,
        f"{_what(last)} at step {last.step}, the last of {count} in a row{tried}; its batch: {_listed(examples)}: "
        f"{_FIXES}; from step 1 on, look at the base model's weights",
    )


def broken(step: int) -> TrainerError:
    """Return the error of a run after whose last step not all that is trained is finite."""
    return TrainerError(Reason.NON_FINITE_LOSS, f"after step {step} what is trained is not finite: {_FIXES}")


def _what(record: StepRecord) -> str:
    """Return which number is not finite."""
    loss, norm = record.loss, record.grad_norm
    return f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"


def _listed(examples: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(examples)[:_SHOWN]))
    more = f" and {len(examples) - _SHOWN} more" if len(examples) > _SHOWN else ""
    return f"examples {shown}{more} of spec.dataset.train (in the order of its files, without those left out)"
