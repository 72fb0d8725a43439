"""How the frozen base gets to the ranks and lies there, and one view of what is trained. Used by `session`, `train`."""

from .groups import ShardGroup, Topology, shard_group
from .load import Base, base_name
from .measure import measured
from .process_groups import Groups, open_groups
from .state import Sharded
from .values import Values

__all__ = [
    "Base",
    "Groups",
    "ShardGroup",
    "Sharded",
    "Topology",
    "Values",
    "base_name",
    "measured",
    "open_groups",
    "shard_group",
]
