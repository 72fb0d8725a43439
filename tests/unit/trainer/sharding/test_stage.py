"""What passes through buffers on its way to a tensor of another dtype or device."""

from pathlib import Path

import pytest
import torch
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.sharding import stage
from peftjob_trainer.sharding.layout import Layout, Stored
from peftjob_trainer.sharding.sources import LocalSource
from peftjob_trainer.sharding.stage import Stage, Target
from peftjob_trainer.storage.weights import verify_weights
from safetensors.torch import save_file

CPU = torch.device("cpu")
SIZES = {"small": 3, "large": 1000, "odd": 41}


@pytest.fixture
def source(tmp_path: Path) -> LocalSource:
    tensors = {name: torch.arange(size, dtype=torch.float32) + size for name, size in SIZES.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return LocalSource(tmp_path, verify_weights(tmp_path, "file:///model"))


def layouts(source: LocalSource) -> dict[str, Layout]:
    (file,) = source.weights.files
    about = source.weights.files[file]
    offsets = {name: about.start + about.tensors[name]["data_offsets"][0] for name in SIZES}
    return {n: Layout.of(Stored(file, n, offsets[n], torch.float32, (size,))) for n, size in SIZES.items()}


@pytest.mark.parametrize("buffer", [16, 64, 4096], ids=lambda size: f"buffers of {size} bytes")
def test_all_arrive_whatever_the_size_of_the_buffers(
    buffer: int, source: LocalSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "part_bytes", buffer)
    monkeypatch.setitem(stage.RING_BYTES, "cpu", 3 * buffer)
    into = {name: torch.full((size,), -1.0, dtype=torch.float64) for name, size in SIZES.items()}
    Stage(source, CPU).read([Target(n, t, 0, len(t)) for n, t in into.items()], layouts(source))
    assert {name: t.tolist() for name, t in into.items()} == {
        n: [float(value) for value in range(s, 2 * s)] for n, s in SIZES.items()
    }
    assert source.bytes_read == 4 * sum(SIZES.values())


def test_a_part_of_a_tensor_is_all_that_is_read(source: LocalSource) -> None:
    into = torch.empty(7, dtype=torch.float16)
    Stage(source, CPU).read([Target("large", into, 10, 17)], layouts(source))
    assert into.tolist() == [1010 + at for at in range(7)]
    assert source.bytes_read == 28


def test_an_error_of_one_read_ends_all(source: LocalSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "part_bytes", 64)
    monkeypatch.setitem(stage.RING_BYTES, "cpu", 128)  # two buffers, and dozens of batches that wait for them
    file = tmp_path / "model.safetensors"
    whole = layouts(source)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 4 * 500)
    with pytest.raises(TrainerError, match="it ends after"):
        Stage(source, CPU).read([Target(n, torch.empty(s, dtype=torch.float64), 0, s) for n, s in SIZES.items()], whole)
