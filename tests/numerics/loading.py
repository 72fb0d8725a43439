"""One rank that loads every architecture twice, by our loader and by the library, and compares.

Usage (by test_direct_load.py, with RANK and its like set): loading.py FOLDER. The library's way is `from_pretrained`
under an `HfDeepSpeedConfig`.
"""

import gc
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from architectures import ARCHITECTURES, CLASSES, IMAGES, Architecture
from counting import count_collectives
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
from deepspeed.runtime.zero.partition_parameters import Init
from deepspeed.utils.timer import NoopTimer
from peftjob_api.spec import StorageSpec
from peftjob_trainer import session
from peftjob_trainer.handoff import Place, end_process
from peftjob_trainer.sharding import Base, Groups, Topology, open_groups, shard_group, zero3
from peftjob_trainer.sharding.load import Loaded
from safetensors.torch import load_file, save_file
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Transpose, WeightConverter
from transformers.integrations import HfDeepSpeedConfig

CALLS = count_collectives()


def ours(
    architecture: Architecture, folder: Path, groups: Groups | None = None, cached: bool = True
) -> tuple[Any, Base, Loaded]:
    """Return a frozen model, loaded by us; `cached`: from a source that the page cache serves."""
    dtype = getattr(torch, architecture.run)
    base = Base(folder, f"file://{folder}", StorageSpec(), dtype, torch.device("cpu"), seed=7)
    base.source.cached = cached
    model = base.skeleton(getattr(transformers, architecture.auto))
    base.prepare(model, architecture.new)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in architecture.new)
    return model, base, base.fill(model, groups)


def librarys(architecture: Architecture, folder: Path) -> Any:
    """Return the model, loaded by transformers."""
    dtype = getattr(torch, architecture.run)
    held = HfDeepSpeedConfig(zero3.zero_config(dtype))
    model = getattr(transformers, architecture.auto).from_pretrained(folder, dtype=dtype)
    del held
    return model.requires_grad_(False)


def loss(model: Any, architecture: Architecture, hooks: Any) -> float:
    """Return the loss on some inputs, the base being gathered by some hooks."""
    torch.manual_seed(3)
    if architecture.auto == IMAGES:
        inputs = {"pixel_values": torch.randn(2, 3, 16, 16), "labels": torch.tensor([0, 2])}
    else:
        ids = torch.randint(2, 300, (2, 9))
        inputs = (
            {"input_ids": ids[:1], "labels": torch.tensor([2])}
            if architecture.auto == CLASSES
            else {"input_ids": ids, "labels": ids}
        )
    with torch.no_grad():
        value = float(model(**inputs).loss)
    hooks.destroy()
    return value


def losses(own: Any, reference: Any, architecture: Architecture) -> list[float]:
    """Return the loss of our model under our hooks, and that of the library's under its own."""
    config = zero3.zero_config(torch.float32)
    theirs = DeepSpeedZeRoOffload(reference, timers=NoopTimer(), ds_config=config, overlap_comm=False)
    return [loss(own, architecture, zero3.Gathering(own, 0)), loss(reference, architecture, theirs)]


def compare(architecture: Architecture, folder: Path, rank: int, world: int) -> dict[str, Any]:
    """Return what the test looks at."""
    CALLS.clear()
    own, base, loaded = ours(architecture, folder)
    collectives = sum(CALLS.values())
    reference = librarys(architecture, folder)
    wanted, differing = dict(reference.named_parameters()), []
    stored = {t.name: t for about in base._segments.layouts.values() for t in {r.tensor for r in about.runs}}
    for name, parameter in own.named_parameters():
        if name.split(".")[0] in architecture.new:
            continue
        other = wanted.pop(name)
        size = -(-other.ds_numel // world)
        mine = max(0, min(size, other.ds_numel - rank * size))
        same = parameter.dtype == other.dtype and getattr(parameter, "ds_shape", parameter.shape) == other.ds_shape
        own_share = share(parameter).flatten()
        same = same and own_share.shape == other.ds_tensor.shape
        if not same or not torch.equal(own_share[:mine].view(torch.uint8), other.ds_tensor[:mine].view(torch.uint8)):
            differing.append(name)
        if own_share[mine:].count_nonzero():
            differing.append(f"{name}: padding")
    plain = getattr(transformers, architecture.auto).from_pretrained(folder, dtype=getattr(torch, architecture.run))
    buffers = dict(plain.named_buffers())
    for name, buffer in own.named_buffers():
        other = buffers.pop(name)
        if not torch.equal(buffer, other) or buffer.dtype != other.dtype:
            differing.append(name)
    kinds = ("Replicate", "Node") if world == 4 else ()
    in_groups = {kind: grouped(kind, architecture, folder, plain) for kind in kinds}
    return in_groups | {
        "differing": differing + [n for n in wanted if n.split(".")[0] not in architecture.new] + list(buffers),
        "read": loaded.bytes_read,
        "base": sum(t.dtype.itemsize * torch.Size(t.shape).numel() for t in stored.values()),
        "buffers": sum(b.numel() * b.element_size() for n, b in own.named_buffers() if n in base._segments.layouts),
        "parameters": len(list(own.parameters())),
        "collectives": collectives,
        "falls back": [conversion.reason for conversion in base._segments.conversions],
        "loss": [] if architecture.new else losses(own, reference, architecture),
        "head": {n: p.tolist() for n, p in own.named_parameters() if n.split(".")[0] in architecture.new},
    }


def transposed(folder: Path) -> dict[str, Any]:
    """Load a model one of whose weights lies transposed in the files, by a conversion that is declared for it."""
    rule = WeightConverter("attn.c_attn_t.weight", "attn.c_attn.weight", operations=[Transpose(0, 1)])
    register_checkpoint_conversion_mapping("gpt2", [rule], overwrite=True)
    number, architecture = named("gpt2")
    if dist.get_rank() == 0 and not (folder / "transposed").exists():
        shutil.copytree(folder / str(number), folder / "transposed")
        tensors = load_file(folder / "transposed/model.safetensors")
        tensors = {
            name.replace("c_attn.weight", "c_attn_t.weight"): t.T.contiguous() if "c_attn.weight" in name else t
            for name, t in tensors.items()
        }
        save_file(tensors, folder / "transposed/model.safetensors", metadata={"format": "pt"})
    dist.barrier()
    found = compare(architecture, folder / "transposed", dist.get_rank(), dist.get_world_size())
    return found | {"values": values(architecture, folder / "transposed")}


def grouped(kind: str, architecture: Architecture, folder: Path, other: Any) -> dict[str, Any]:
    """Load a model as a shard group of two nodes wants it, from a source that no page cache serves.

    The library lays it by `Init` on a model that it read whole, `other`.
    """
    topology = Topology(2, 2)
    groups = open_groups(shard_group(kind, topology), topology)  # type: ignore[arg-type]
    CALLS.clear()
    own, base, _ = ours(architecture, folder, groups, cached=False)
    calls = dict(CALLS)
    dtype = getattr(torch, architecture.run)
    if groups.base is not None:
        Init(module=other, data_parallel_group=groups.base, config_dict_or_path=zero3.zero_config(dtype), dtype=dtype)
    wanted, differing = dict(other.named_parameters()), []
    for name, parameter in own.named_parameters():
        if name.split(".")[0] not in architecture.new:
            numel = min(share(parameter).numel(), parameter.numel() if groups.base is None else filled(parameter))
            same = share(parameter).flatten()[:numel], share(wanted[name]).flatten()[:numel]
            if not torch.equal(*(tensor.view(torch.uint8) for tensor in same)):
                differing.append(name)
    return {
        "differing": differing,
        "read": base.source.bytes_read,
        "collectives": [[name, list(ranks), size] for (name, ranks), size in calls.items()],
        "loaded": sum(p.numel() * p.element_size() for p in own.parameters()),
    }


def share(parameter: Any) -> torch.Tensor:
    """Return what this rank holds of a parameter."""
    return getattr(parameter, "ds_tensor", parameter.data).detach()


def filled(parameter: Any) -> int:
    """Return how many elements of a partition are not padding."""
    size = -(-parameter.ds_numel // parameter.ds_zero_partition_world_size)
    return max(0, min(size, parameter.ds_numel - parameter.ds_zero_partition_rank * size))


def values(architecture: Architecture, folder: Path) -> dict[str, Any]:
    """Compute something from each matrix, each read by one rank, and read some rows; tell what is wrong."""
    dtype = getattr(torch, architecture.run)
    base = Base(folder, f"file://{folder}", StorageSpec(), dtype, torch.device("cpu"), seed=7)
    model = base.skeleton(getattr(transformers, architecture.auto))
    base.prepare(model)
    plain = getattr(transformers, architecture.auto).from_pretrained(folder, dtype=dtype)
    matrices = {n: p.detach() for n, p in plain.named_parameters() if p.ndim > 1}
    before = base.source.bytes_read
    norms = base.values.each(
        {name: matrix.shape[:1] for name, matrix in matrices.items()},
        lambda _, matrix: matrix.float().flatten(1).norm(dim=1),
        dtype,
    )
    read = base.source.bytes_read - before
    wrong = [n for n, m in matrices.items() if not torch.equal(norms[n], m.float().flatten(1).norm(dim=1))]
    rows = {name: base.values.rows(name, [1, 0, 1], dtype) for name in matrices}
    wrong += [f"rows of {n}" for n, m in matrices.items() if not torch.equal(rows[n], m[[1, 0, 1]])]
    dist.barrier()
    return {"wrong": wrong, "read": read, "whole": sum(m.numel() * m.element_size() for m in matrices.values())}


def tied_twice(folder: Path) -> dict[str, bool]:
    """Tell whether the head is the embedding, when the files hold both: equal, or different."""
    number, architecture = named("llama, tied")
    found = {}
    for kind in ("equal", "different"):
        copy = folder / f"tied, {kind}, {dist.get_world_size()}"
        if dist.get_rank() == 0:
            shutil.copytree(folder / str(number), copy)
            tensors = load_file(copy / "model.safetensors")
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + (kind == "different")
            save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        dist.barrier()
        model, *_ = ours(architecture, copy)
        found[kind] = model.lm_head.weight is model.model.embed_tokens.weight
    return found


def named(name: str) -> tuple[int, Architecture]:
    """Return an architecture and its number."""
    return next((n, a) for n, a in enumerate(ARCHITECTURES) if a.name == name)


def main(folder: Path) -> None:
    """Compare all."""
    session.quiet_libraries()
    place = Place.here(os.environ)
    session.connect(place, torch.device("cpu"))
    results: dict[str, Any] = {}
    for number, architecture in enumerate(ARCHITECTURES):
        try:
            results[architecture.name] = compare(architecture, folder / str(number), place.rank, place.world)
        except Exception as error:
            raise RuntimeError(architecture.name) from error
        gc.collect()
    number, architecture = named("mixtral, in shards")
    results["values"] = values(architecture, folder / str(number))
    results |= {"tied twice": tied_twice(folder), "a transpose": transposed(folder)}
    (folder / f"world-{place.world}-rank-{place.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process(0)
