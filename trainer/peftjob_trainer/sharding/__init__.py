"""How the frozen base lies on the ranks, and one view of what is trained. Used by `session` and `train`."""

from .measure import measured
from .zero3 import Sharded, partitioned_loading

__all__ = ["Sharded", "measured", "partitioned_loading"]
