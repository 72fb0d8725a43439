"""One rank that loads every architecture twice, by our loader and by the library, and compares.

Usage (by test_direct_load.py, with RANK and its like set): loading.py FOLDER. The library's way is `from_pretrained`
under an `HfDeepSpeedConfig`.
"""

import gc
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from architectures import ARCHITECTURES, CLASSES, IMAGES, Architecture
from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
from deepspeed.utils.timer import NoopTimer
from peftjob_api.spec import StorageSpec
from peftjob_trainer import session
from peftjob_trainer.handoff import Place, end_process
from peftjob_trainer.sharding import Base, zero3
from peftjob_trainer.sharding.load import Loaded
from safetensors.torch import load_file, save_file
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Transpose, WeightConverter
from transformers.integrations import HfDeepSpeedConfig

COLLECTIVES = (
    "broadcast", "all_reduce", "reduce", "all_gather", "all_gather_into_tensor", "all_gather_coalesced", "gather",
    "scatter", "reduce_scatter", "reduce_scatter_tensor", "all_to_all", "all_to_all_single", "send", "recv", "isend",
    "irecv",
)  # fmt: skip


@contextmanager
def counted_collectives() -> Iterator[list[int]]:
    """Collect the bytes of all tensors that are given to torch.distributed, its own bookkeeping included."""
    sizes: list[int] = []
    originals = {name: getattr(dist, name) for name in COLLECTIVES if hasattr(dist, name)}

    def counting(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            for value in (*args, *kwargs.values()):
                tensors = value if isinstance(value, list) else [value]
                sizes.extend(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
            return original(*args, **kwargs)

        return call

    for name, original in originals.items():
        setattr(dist, name, counting(original))
    try:
        yield sizes
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def ours(architecture: Architecture, folder: Path, group: Any = None) -> tuple[Any, Base, Loaded]:
    """Return a frozen model, loaded by us."""
    dtype = getattr(torch, architecture.run)
    base = Base(folder, f"file://{folder}", StorageSpec(), dtype, torch.device("cpu"), seed=7)
    model = base.skeleton(getattr(transformers, architecture.auto))
    base.prepare(model, architecture.new)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in architecture.new)
    return model, base, base.fill(model, group)


def librarys(architecture: Architecture, folder: Path) -> Any:
    """Return the model, loaded by transformers."""
    dtype = getattr(torch, architecture.run)
    held = HfDeepSpeedConfig(zero3.zero_config(dtype))
    model = getattr(transformers, architecture.auto).from_pretrained(folder, dtype=dtype)
    del held
    return model.requires_grad_(False)


def loss(model: Any, architecture: Architecture) -> float:
    """Return the loss on some inputs, the base being gathered as in training."""
    zero = DeepSpeedZeRoOffload(
        model, timers=NoopTimer(), ds_config=zero3.zero_config(torch.float32), overlap_comm=False
    )
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
    zero.destroy()
    return value


def compare(architecture: Architecture, folder: Path, rank: int, world: int) -> dict[str, Any]:
    """Return what the test looks at."""
    with counted_collectives() as sizes:
        own, base, loaded = ours(architecture, folder)
    reference = librarys(architecture, folder)
    wanted, differing = dict(reference.named_parameters()), []
    stored = {t.name: t for about in base._segments.layouts.values() for t in {r.tensor for r in about.runs}}
    for name, parameter in own.named_parameters():
        if name.split(".")[0] in architecture.new:
            continue
        other = wanted.pop(name)
        size = -(-parameter.ds_numel // world)
        mine = max(0, min(size, parameter.ds_numel - rank * size))
        same = parameter.dtype == other.dtype and parameter.ds_shape == other.ds_shape
        same = same and parameter.ds_tensor.shape == other.ds_tensor.shape
        if not same or not torch.equal(
            parameter.ds_tensor[:mine].view(torch.uint8), other.ds_tensor[:mine].view(torch.uint8)
        ):
            differing.append(name)
        if parameter.ds_tensor[mine:].count_nonzero():
            differing.append(f"{name}: padding")
    plain = getattr(transformers, architecture.auto).from_pretrained(folder, dtype=getattr(torch, architecture.run))
    buffers = dict(plain.named_buffers())
    for name, buffer in own.named_buffers():
        other = buffers.pop(name)
        if not torch.equal(buffer, other) or buffer.dtype != other.dtype:
            differing.append(name)
    return {
        "differing": differing + [n for n in wanted if n.split(".")[0] not in architecture.new] + list(buffers),
        "read": loaded.bytes_read,
        "base": sum(t.dtype.itemsize * torch.Size(t.shape).numel() for t in stored.values()),
        "buffers": sum(b.numel() * b.element_size() for n, b in own.named_buffers() if n in base._segments.layouts),
        "parameters": len(list(own.parameters())),
        "collectives": sum(sizes),
        "falls back": [conversion.reason for conversion in base._segments.conversions],
        "loss": [] if architecture.new else [loss(own, architecture), loss(reference, architecture)],
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


def replica(folder: Path) -> dict[str, Any]:
    """Load a model whole on each rank."""
    number, architecture = named("llama")
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    model, base, _ = ours(architecture, folder / str(number), alone)
    stored = load_file(folder / str(number) / "model.safetensors")
    assert all(torch.equal(p.ds_tensor.view(p.ds_shape), stored[n]) for n, p in model.named_parameters())
    return {"whole": sum(t.numel() * t.element_size() for t in stored.values()), "read": base.source.bytes_read}


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
    results |= {"replica": replica(folder), "tied twice": tied_twice(folder), "a transpose": transposed(folder)}
    (folder / f"world-{place.world}-rank-{place.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process(0)
