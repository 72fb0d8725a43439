"""Whether the API server's store was set back to an older state, as by a restored snapshot. Used by `__main__`.

A watch that goes on from a version which the store has yet to reach again is silent, and nothing tells it from one in
which nothing happens. What was known before is then worth nothing, so the operator ends; the next one lists anew.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from peftjob_api.constants import GROUP, PLURAL, VERSION

from .cache import version
from .kube import PEFTJOBS, ApiError, Kube

log = logging.getLogger(__name__)

CHECK_SECONDS = 10.0


class SetBack(RuntimeError):
    """The store is older than it was."""


async def watch_versions(
    kube: Kube, namespaces: Sequence[str], known: Callable[[], int], seconds: float = CHECK_SECONDS
) -> None:
    """Ask for the store's version from time to time, for ever.

    Args:
        kube: To ask.
        namespaces: That may be read; none: all.
        known: Returns the highest version of a PeftJob that was seen elsewhere.
        seconds: Between two questions.

    Raises:
        SetBack: It fell.
    """
    path = PEFTJOBS.format(namespace=namespaces[0]) if namespaces else f"/apis/{GROUP}/{VERSION}/{PLURAL}"
    newest = 0
    while True:
        newest = max(newest, known())  # before it is asked: the answer is as new as all that was told till then
        try:
            found = version(await kube.request("GET", path, query={"limit": "1"}))
        except (ApiError, OSError) as error:
            log.debug("no version: %s", error)
        else:
            if found < newest:
                raise SetBack(f"the API server's store was set back from version {newest} to {found}: beginning anew")
            newest = found
        await asyncio.sleep(seconds)
