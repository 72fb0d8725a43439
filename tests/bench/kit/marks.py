"""What is noted between two steps on a rank, alike for all ways of training."""

import time

import torch

from .meeting import Meeting
from .process import interface_bytes


class Marks:
    """When steps ended, and what had crossed each interface of this rank's node by then."""

    def __init__(self, meeting: Meeting | None) -> None:
        """Begin; with a meeting, all ranks stand still while interfaces are looked at."""
        self.ends: list[float] = []
        self.wires: list[dict[str, tuple[int, int]]] = []
        self._meeting = meeting

    def mark(self) -> None:
        """Note the end of a step."""
        if self._meeting is not None:
            self._meeting.meet()
            self.wires.append(interface_bytes())
            self._meeting.meet()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())
