"""How many bytes of a base each rank reads, from files, from S3 and from a hub, and what is sent besides.

Of files it is what the rank's system calls read; of S3 and a hub what those send to it, HTTP headers and all, counted
by a proxy that each rank has to itself. Weights are bf16 and lie in the page cache; the headers of the files are read
once for each node before, as the launcher does it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit import jobs, models
from kit.launch import ROOT, Gang, run_ranks
from kit.servers import OWNER, hub
from kit.table import Found, Row, at_least, at_most, equal

DENSE, SHORT = ("llama-26m", "qwen2-50m", "t5-60m", "bert-40m", "vit-22m"), ("llama-26m",)
EXPERTS = ("mixtral-40m", "qwen2-moe-40m")
GROUPS = ("Replicate", "Node", "Full")
SOURCES = ("s3", "hub", "file")
"""Files last: by then what is imported late has been, and is not counted as read."""
BAR_RANK, BAR_NODE, BOOKKEEPING_BYTES = 1.02, 1.03, 64e3
BUCKET = "models"


def measure(scratch: Path, *, quick: bool) -> Found:
    """Load each model by 1 to 4 ranks, then two of them by each shard group on what passes for two nodes."""
    names = (*(SHORT if quick else DENSE), *EXPERTS)
    local = scratch / "models"
    sizes = {name: models.write(name, local / name, "bfloat16") for name in names}
    found = Found(raw={"sizes": sizes})
    with sources(local, scratch / "fetched", names) as (bases, environment):
        for ranks in (3,) if quick else (1, 2, 3, 4):
            loaded = run_ranks("reads", {"bases": bases}, Gang(1, ranks), scratch, environment=environment)
            found.raw[f"{ranks} ranks"] = loaded
        each = [
            (rank[number], sizes[base["model"]] / len(loaded))
            for loaded in (found.raw[key] for key in found.raw if key.endswith("ranks"))
            for rank in loaded
            for number, base in enumerate(bases)
        ]
        found.rows += by_source(each)
        by_group(found, scratch, [b for b in bases if b["model"] in ("llama-26m", "mixtral-40m")], sizes, environment)
    return found


def by_source(each: list[tuple[dict[str, Any], float]]) -> Iterator[Row]:
    """Yield the rows of partitions over all ranks; each load comes with its rank's share in bytes."""
    for source in SOURCES:
        ratios = [read_of(load) / share for load, share in each if load["name"].startswith(f"{source} ")]
        yield at_most(f"reads, {source}: the most that a rank of any model and N reads, by base/N", max(ratios),
                      BAR_RANK, "x")  # fmt: skip
    yield at_most(
        "reads: tensors that fall back to the library's path", sum(len(load["fell back"]) for load, _ in each), 0
    )
    yield at_most("reads: bytes in collectives while loading (0 and bookkeeping)",
                  max(load["collectives"] for load, _ in each), BOOKKEEPING_BYTES, "B")  # fmt: skip


def by_group(
    found: Found, scratch: Path, bases: list[dict[str, Any]], sizes: dict[str, int], environment: dict[str, str]
) -> None:
    """Measure the shard groups, four ranks that take themselves for two nodes of two."""
    gang = Gang(2, 2)
    data = scratch / "dense.jsonl"
    jobs.write_dense(data, 16, 16)
    todo = [
        {
            "body": jobs.job(base["uri"], data, scratch / f"out-{group}-{number}", sharding=group, nodes=2,
                             storage=base["storage"], precision="BF16", maxSteps=1),
            "model": base["folder"], "only_load": True,
        }
        for group in GROUPS for number, base in enumerate(bases)
    ]  # fmt: skip
    ranks = run_ranks("ours", {"jobs": todo}, gang, scratch, environment=environment)
    found.raw["groups"] = ranks
    for first, group in zip(range(0, len(todo), len(bases)), GROUPS, strict=True):
        width = {"Replicate": 1, "Node": gang.ranks_per_node, "Full": gang.world}[group]
        chosen = range(first, first + len(bases))
        plans = {
            (rank[n]["plan"]["shardGroup"], rank[n]["plan"].get("shardRanks", width)) for rank in ranks for n in chosen
        }
        found.rows.append(equal(f"reads, {group}: the group that every rank was in", holds=plans == {(group, width)}))
        for source in SOURCES:
            of_source = [
                (n, sizes[bases[n - first]["model"]]) for n in chosen if bases[n - first]["name"].startswith(source)
            ]
            found.rows += rows_of_group(ranks, of_source, f"{source}, {group}", width, gang)


def rows_of_group(
    ranks: list[list[dict[str, Any]]], loads: list[tuple[int, int]], name: str, width: int, gang: Gang
) -> Iterator[Row]:
    """Yield the rows of one source and shard group.

    Args:
        ranks: Of each rank, what it read at each load.
        loads: Numbers of the loads, and the bytes of their bases.
        name: Of source and group, for people.
        width: Ranks of the group.
        gang: Of all ranks.
    """
    most = max(read_of(rank[n]) / (size / width) for rank in ranks for n, size in loads)
    yield at_most(f"reads, {name}: the most that a rank reads, by base/w", most, BAR_RANK, "x")
    if name.startswith("file"):
        return  # the page cache serves a node's second rank
    held = min(1.0, gang.ranks_per_node / width)
    nodes = [ranks[at : at + gang.ranks_per_node] for at in range(0, gang.world, gang.ranks_per_node)]
    entering = [sum(read_of(rank[n]) for rank in node) / (size * held) for node in nodes for n, size in loads]
    yield at_most(f"reads, {name}: what enters a node, by what it holds once", max(entering), BAR_NODE, "x")
    yield at_least(f"reads, {name}: the same, at least all of it", min(entering), 0.99, "x")


def read_of(load: dict[str, Any]) -> int:
    """Return what a load took from storage."""
    return int(load["read"] if load["served"] is None else load["served"])


@contextmanager
def sources(
    local: Path, fetched: Path, names: tuple[str, ...]
) -> Iterator[tuple[list[dict[str, Any]], dict[str, str]]]:
    """Yield every model at every source, as `ways.reads` takes it, and the variables that ranks need for it."""
    sys.path.append(str(ROOT / "tests/cluster"))
    import boto3
    from peftjob_api.spec import BaseModelSpec, StorageSpec
    from peftjob_cluster.s3 import S3Server
    from peftjob_trainer.storage import fetch_model

    with S3Server(buckets=[BUCKET]) as s3, hub(local) as address:
        keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        environment = {**keys, "AWS_EC2_METADATA_DISABLED": "true"}
        os.environ.update(environment)
        client = boto3.client("s3", **s3.boto3())
        bases = []
        for name in names:
            for file in (local / name).iterdir():
                client.upload_file(str(file), BUCKET, f"{name}/{file.name}")
            places: dict[str, tuple[str, dict[str, Any] | None]] = {
                "s3": (f"s3://{BUCKET}/{name}", {"s3": {"endpoint": s3.endpoint}}),
                "hub": (f"hf://{OWNER}/{name}", {"huggingFace": {"endpoint": address}}),
                "file": (f"file://{local / name}", None),
            }
            for source in SOURCES:
                uri, storage = places[source]
                asked = BaseModelSpec.model_validate({"uri": uri}), StorageSpec.model_validate(storage or {})
                folder = fetch_model(*asked, fetched / source / name)
                bases.append({
                    "name": f"{source} {name}", "model": name, "folder": str(folder), "uri": uri, "storage": storage,
                    "auto": models.MODELS[name].auto,
                })  # fmt: skip
        yield bases, environment
