"""When a run is saved while it trains: `spec.checkpoint`."""

from typing import Annotated

from pydantic import Field

from .base import INT32_MAX, ApiModel


class CheckpointSpec(ApiModel):
    """When a run is saved, so that a next attempt goes on from there instead of from its first step."""

    every_minutes: Annotated[float, Field(gt=0, le=10080)] = 5.0
    """everyMinutes is the time after which a checkpoint is written, in the background, after the step in work."""
    every_steps: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = None
    """everySteps also writes one every so many steps. Default: only by everyMinutes."""
    keep_last: Annotated[int, Field(ge=1, le=100)] = 2
    """keepLast is how many stay at the output while the job trains; once its adapter is published, none does."""
