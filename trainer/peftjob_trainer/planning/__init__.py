"""Chooses the shard group from what the job needs of each rank's memory, before any weight is read.

`estimate` runs a step without data, `choose` takes the smallest group that fits, `remedies` says what would fit if none
does, `settle` makes all ranks agree. Used by `session` and by the command `plan`.
"""

from .choose import Option, topology_of
from .estimate import Inputs, estimate
from .settle import settle

__all__ = ["Inputs", "Option", "estimate", "settle", "topology_of"]
