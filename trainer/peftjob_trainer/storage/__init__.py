"""Where models and data come from and adapters go to: S3, the Hugging Face hub, and mounted file systems.

Used by `claim` and `publish` (stores) and by the trainer's start (fetching); nothing else talks to a storage service.
"""

from .adapters import fetch_adapter
from .datasets import all_here, fetch_beside, fetch_files
from .fetch import fetch_model, open_store
from .store import ConditionsUnsupported, ObjectInfo, ObjectNotFound, PreconditionFailed, Store, Stream

__all__ = [
    "ConditionsUnsupported",
    "ObjectInfo",
    "ObjectNotFound",
    "PreconditionFailed",
    "Store",
    "Stream",
    "all_here",
    "fetch_adapter",
    "fetch_beside",
    "fetch_files",
    "fetch_model",
    "open_store",
]
