"""What the bench's counters make of what they see."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests/bench"))

from kit.collectives import GATHERS, OPERATIONS, Collectives, received
from kit.process import bytes_read, interface_bytes, peak_memory, reset_peak_memory, resident_memory

MB = 2**20


@pytest.mark.parametrize(
    ("operation", "first", "second", "is_root", "want"),
    [
        ("allgather", 400, 100, False, 300),
        ("_allgather_base", 400, 100, False, 300),
        ("gather", 400, 100, True, 300),
        ("gather", 0, 100, False, 0),
        ("reduce_scatter", 100, 400, False, 300),
        ("alltoall_base", 400, 400, False, 300),
        ("allreduce", 400, 0, False, 600),
        ("broadcast", 400, 0, False, 400),
        ("broadcast", 400, 0, True, 0),
        ("scatter", 100, 400, True, 0),
        ("scatter", 100, 0, False, 100),
        ("reduce", 400, 0, True, 400),
        ("reduce", 400, 0, False, 0),
        ("recv", 400, 0, False, 400),
    ],
)
def test_bytes_that_one_of_four_ranks_receives(
    operation: str, first: int, second: int, is_root: bool, want: int
) -> None:
    assert received(operation, first, second, 4, is_root=is_root) == want


@pytest.fixture
def world() -> Iterator[Any]:
    """A world of one rank, and torch.distributed; its methods are given back at the end."""
    dist = pytest.importorskip("torch.distributed")
    kept = {name: getattr(dist.ProcessGroup, name) for name in OPERATIONS if hasattr(dist.ProcessGroup, name)}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist
    dist.destroy_process_group()
    for name, method in kept.items():
        setattr(dist.ProcessGroup, name, method)


def test_every_call_of_torch_distributed_is_seen(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seen: list[tuple[str, int, int]] = []
    monkeypatch.setattr("kit.collectives.received", lambda name, a, b, *_, **__: seen.append((name, a, b)) or 0)
    counted = Collectives(1)
    counted.install()
    tensor = torch.ones(4)
    world.all_reduce(tensor)
    world.broadcast(tensor, 0)
    world.reduce(tensor, 0)
    world.all_gather([torch.zeros(4)], tensor)
    world.all_gather_into_tensor(torch.zeros(4), tensor)
    world.gather(tensor, [torch.zeros(4)])
    world.scatter(torch.zeros(4), [tensor])
    world.all_to_all_single(torch.zeros(4), tensor)
    world.reduce_scatter_tensor(torch.zeros(4), tensor)
    in_place, with_input = [s for s in seen if s[2] == 0], [s for s in seen if s[2]]
    assert [a for _, a, _ in in_place] == [16] * 3
    assert [(a, b) for _, a, b in with_input] == [(16, 16)] * 6
    assert len({name for name, *_ in seen}) >= 8


def test_counts_are_kept_by_phase_and_by_whether_they_leave_the_node() -> None:
    counted = Collectives(2)
    counted.within = {"Training": Counter(allgather=5), "Loading": Counter(broadcast=7)}
    counted.across = {"Training": Counter(allreduce=11)}
    assert counted.total("Training", ("allgather", "allreduce")) == 16
    assert counted.total("Training", ("allgather",), across=True) == 0
    assert counted.total("Training", ("allreduce",), across=True) == 11
    assert counted.total("Training", GATHERS, across=False) == 5


def test_interfaces_are_read_as_the_kernel_prints_them() -> None:
    text = (
        "Inter-|   Receive                            |  Transmit\n"
        " face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier\n"
        "    lo: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n"
        " veth0:1234567890 1 0 0 0 0 0 0 42 1 0 0 0 0 0 0\n"
    )
    assert interface_bytes(text) == {"lo": (10, 20), "veth0": (1234567890, 42)}
    assert "lo" in interface_bytes()


def test_the_peak_can_begin_anew() -> None:
    held = bytearray(64 * MB)
    assert peak_memory() >= 64 * MB
    held.clear()
    reset_peak_memory()
    assert abs(peak_memory() - resident_memory()) < 8 * MB
    more = bytearray(b"x") * (32 * MB)
    assert peak_memory() - resident_memory() < 8 * MB
    assert len(more) == 32 * MB


def test_bytes_read_count_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(MB))
    before = bytes_read()
    file.read_bytes()
    assert MB <= bytes_read() - before < 2 * MB
