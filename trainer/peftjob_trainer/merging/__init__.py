"""Writes base and adapter as one model, of which no rank ever holds more than some tensors (`output.merge`).

`content` says of what tensors the merged model is made and who writes which, `compute` makes their bytes, `write` has
all ranks write their own shard file under the claim that rank 0 holds. Used by `session`.
"""

from .write import Merge, writers

__all__ = ["Merge", "writers"]
