"""The direct load against the library's, on 1 to 4 ranks: the same bytes in the same places, each read once."""

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE)]

from architectures import ARCHITECTURES, Architecture, write  # noqa: E402 (after the path)

WORLDS = (1, 2, 3, 4)
AGREEMENT_BYTES = 200
"""What ranks tell each other of versions, bytes and seconds."""
Results = list[dict[str, dict[str, Any]]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("architectures")
    write(folder)
    return folder


@pytest.fixture(scope="session", params=WORLDS, ids=lambda world: f"{world} ranks")
def loaded(request: pytest.FixtureRequest, models: Path) -> Results:
    """Everything, loaded with so many ranks; what each rank wrote, by architecture."""
    return load_all(models, request.param)


@pytest.fixture(scope="session")
def four(models: Path) -> Results:
    """Everything, loaded on two nodes of two ranks."""
    return load_all(models, 4)


@cache
def load_all(models: Path, world: int) -> Results:
    """Load everything with so many ranks; return what each rank wrote, by architecture."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("crds", "trainer", "tests/numerics")),
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world),
    }  # fmt: skip
    command = [sys.executable, str(HERE / "loading.py"), str(models)]
    processes = []
    for rank in range(world):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (models / f"world-{world}-rank-{rank}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        codes = [process.wait(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    logs = [(models / f"world-{world}-rank-{rank}.log").read_text()[-3000:] for rank in range(world)]
    assert codes == [0] * world, "\n".join(logs)
    return [json.loads((models / f"world-{world}-rank-{rank}.json").read_text()) for rank in range(world)]


each = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)


@each
def test_partitions_are_those_of_the_library(loaded: Results, architecture: Architecture) -> None:
    assert [rank[architecture.name]["differing"] for rank in loaded] == [[]] * len(loaded)


@each
def test_the_first_loss_is_that_of_the_library(loaded: Results, architecture: Architecture) -> None:
    for rank in loaded:
        losses = rank[architecture.name]["loss"]
        assert losses[1:] == losses[:-1]


@each
def test_each_byte_of_the_base_is_read_by_one_rank(loaded: Results, architecture: Architecture) -> None:
    found = loaded[0][architecture.name]
    world, buffers = len(loaded), found["buffers"]
    assert found["falls back"] == []
    assert sum(found["read"]) == found["base"] + (world - 1) * buffers
    # A share is rounded up to an element of each parameter.
    assert max(found["read"]) <= found["base"] / world + buffers + 4 * found["parameters"]


@each
def test_nothing_of_the_base_goes_from_rank_to_rank(loaded: Results, architecture: Architecture) -> None:
    assert max(rank[architecture.name]["collectives"] for rank in loaded) <= AGREEMENT_BYTES


@each
def test_a_new_head_is_the_same_on_all_ranks(loaded: Results, architecture: Architecture) -> None:
    heads = [rank[architecture.name]["head"] for rank in loaded]
    assert all(head == heads[0] for head in heads)
    assert bool(heads[0]) == bool(architecture.new)


def test_a_conversion_that_moves_single_elements_is_done_by_the_library(loaded: Results) -> None:
    for rank in loaded:
        assert rank["a transpose"]["differing"] == []
        assert "Transpose" in rank["a transpose"]["falls back"][0]


@each
@pytest.mark.parametrize("kind", ["Replicate", "Node"])
def test_each_shard_group_holds_what_the_library_would_give_it(
    four: Results, kind: str, architecture: Architecture
) -> None:
    for rank in four:
        assert rank[architecture.name][kind]["differing"] == []


@each
@pytest.mark.parametrize("kind", ["Replicate", "Node"])
def test_each_byte_enters_a_node_once_and_none_crosses(four: Results, kind: str, architecture: Architecture) -> None:
    whole = four[0][architecture.name]
    found = [rank[architecture.name][kind] for rank in four]
    for node in (found[:2], found[2:]):
        assert sum(rank["read"] for rank in node) == whole["base"] + whole["buffers"]  # those each rank reads
    for rank in found:
        inside = sum(size for _, ranks, size in rank["collectives"] if ranks in ([0, 1], [2, 3]))
        between = sum(size for _, ranks, size in rank["collectives"]) - inside
        assert between <= AGREEMENT_BYTES
        assert inside <= (rank["loaded"] if kind == "Replicate" else 0)


def test_weights_that_a_config_ties_and_the_files_hold_twice(loaded: Results) -> None:
    assert [rank["tied twice"] for rank in loaded] == [{"equal": True, "different": False}] * len(loaded)


def test_what_is_computed_from_the_base_is_read_by_one_rank_and_known_to_all(loaded: Results) -> None:
    for found in ([rank["values"] for rank in loaded], [rank["a transpose"]["values"] for rank in loaded]):
        assert [rank["wrong"] for rank in found] == [[]] * len(loaded)
        assert sum(rank["read"] for rank in found) == found[0]["whole"]
        # Dealt out evenly: by turns of the largest, nobody has more than his share and one of them.
        assert max(rank["read"] for rank in found) <= found[0]["whole"] / len(loaded) + found[0]["whole"] / 4
