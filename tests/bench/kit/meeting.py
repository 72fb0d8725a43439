"""A barrier of the ranks of one run through files, which adds nothing to the networks that are being counted."""

import time
from pathlib import Path

_PATIENCE_SECONDS = 300


class Meeting:
    """Where ranks wait for each other, again and again."""

    def __init__(self, folder: Path, rank: int, world: int) -> None:
        self._folder, self._rank, self._world, self._number = folder / "meetings", rank, world, 0
        self._folder.mkdir(exist_ok=True)

    def meet(self) -> None:
        """Return when all ranks are here.

        Raises:
            TimeoutError: One does not come; the run is ended by whoever sees why.
        """
        self._number += 1
        (self._folder / f"{self._number}-{self._rank}").touch()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not all((self._folder / f"{self._number}-{rank}").exists() for rank in range(self._world)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {self._rank} waits at meeting {self._number}")
            time.sleep(0.002)
