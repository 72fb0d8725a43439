"""How the frozen base gets to the ranks and lies there, and one view of what is trained. Used by `session`, `train`."""

from .load import Base
from .measure import measured
from .zero3 import Sharded

__all__ = ["Base", "Sharded", "measured"]
