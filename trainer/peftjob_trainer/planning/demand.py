"""What a job needs of the memory of each rank, by parts, for any shard group; pure. Made by `estimate`."""

from collections import Counter
from dataclasses import dataclass, fields
from typing import Final

_FP32: Final = 4


@dataclass(frozen=True)
class Parts:
    """Bytes on one rank at its fullest moment. The parts add up to `total`."""

    base: int
    """Of the frozen base: this rank's partitions, and the model's buffers."""
    gathered: int
    """By which gathering the base block by block raises the peak."""
    activations: int
    """Of one micro step or batch of an evaluation, gradients of activations and the loss's workspace included; or what
    the update of the adapter needs, if that is more."""
    trained: int
    """Parameters, gradients and both moments of what is trained, all fp32."""
    runtime: int
    """Of the process itself: libraries, communication, the accelerator's context."""

    @property
    def total(self) -> int:
        """The predicted peak."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Writing:
    """What it costs to let the model write, in one evaluation."""

    batches: int
    """Of each rank."""
    tokens: int
    """In each batch, at most: shorter texts cost less."""
    per_token: int
    """Bytes of a partitioned base that are gathered for one forward pass."""
    per_batch: int
    """The same of an encoder, which reads a batch once."""

    @property
    def gathered(self) -> int:
        """Bytes that each rank gathers at most."""
        return self.batches * (self.per_batch + self.tokens * self.per_token)


@dataclass(frozen=True)
class Demand:
    """What a job needs, whatever the shard group."""

    base: Counter[tuple[int, int]]
    """(elements, bytes of each) of a frozen parameter -> how many there are."""
    buffers: int
    """Bytes of the model's buffers, whole on every rank."""
    trained: int
    """Number of trained parameters."""
    copies: int
    """Copies of what is trained beside parameter, gradient and moments: of the best step so far, if it is kept here."""
    whole: int
    """Bytes of activations at their peak, of a rank that holds the whole base."""
    sharded: int
    """The same with what is gathered, of a rank that does not."""
    runtime: int
    """Bytes of the process itself."""
    is_rough: bool = False
    """Whether activations are guessed, since the model does not run without data."""
    writing: Writing | None = None
    """What it costs to let the model write in each evaluation, if it is to."""

    @property
    def base_parameters(self) -> int:
        """Number of frozen parameters."""
        return sum(count * elements for (elements, _), count in self.base.items())

    @property
    def base_bytes(self) -> int:
        """Bytes of the frozen base as a whole."""
        return sum(count * elements * size for (elements, size), count in self.base.items())

    def on(self, ranks: int) -> Parts:
        """Return the parts if a copy of the base lies on some ranks.

        ZeRO-3 cuts every parameter into `ranks` pieces of `ceil(elements / ranks)`, the last one padded.
        """
        base = sum(count * -(-elements // ranks) * size for (elements, size), count in self.base.items())
        update = self.trained * _FP32  # the flat buffer in which gradients are added up over the ranks
        step = self.whole if ranks == 1 else self.sharded
        return Parts(
            base=base + self.buffers,
            gathered=max(0, step - max(self.whole, update)),
            activations=max(self.whole, update),
            trained=(4 + self.copies) * self.trained * _FP32,
            runtime=self.runtime,
        )
