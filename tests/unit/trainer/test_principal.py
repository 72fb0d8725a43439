"""LoRA that begins as a part of a weight: the factors are those of the papers, and the part is the same for peft."""

import pytest
import torch
from peftjob_trainer.methods.principal import _orthogonal, _singular

OUTPUTS, INPUTS, RANK, SCALE = 24, 40, 4, 2.0


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(3))


def test_pissa_is_the_best_approximation_of_its_rank(weight: torch.Tensor) -> None:
    a, b = _singular(weight, RANK, SCALE)
    assert (a.shape, b.shape) == ((RANK, INPUTS), (OUTPUTS, RANK))
    u, s, vh = torch.linalg.svd(weight)
    torch.testing.assert_close(SCALE * b @ a, u[:, :RANK] * s[:RANK] @ vh[:RANK], rtol=0, atol=1e-4)
    torch.testing.assert_close((a * a).sum(1), s[:RANK] / SCALE, rtol=1e-4, atol=0)


def test_olora_is_the_beginning_of_the_qr_decomposition(weight: torch.Tensor) -> None:
    a, b = _orthogonal(weight, RANK, SCALE)
    torch.testing.assert_close(b.T @ b, torch.eye(RANK), rtol=0, atol=1e-5)
    # What is left has nothing in the directions that B has.
    torch.testing.assert_close(b.T @ (weight - b @ a), torch.zeros(RANK, INPUTS), rtol=0, atol=1e-5)


def test_the_factors_of_a_weight_are_the_same_each_time(weight: torch.Tensor) -> None:
    torch.manual_seed(1)
    first = _singular(weight, RANK, SCALE)
    torch.manual_seed(2)
    again = _singular(weight, RANK, SCALE)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
