"""One rank's whole work, from the inputs on this node to a published adapter. Called by `rank`."""

import logging
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import deepspeed
import torch
import torch.distributed as dist
import transformers
from peftjob_api import PERMANENT, AdapterInfo, PeftJobSpec, PlanInfo, Reason
from peftjob_api.constants import ENV_LOG_FORMAT
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from . import data_report, initial
from .checkpointing import checkpoint_blocks
from .checkpoints.keeper import Checkpoints
from .checkpoints.resume import go_on, newest
from .checkpoints.state import TrainingState
from .checkpoints.stored import Stored
from .checkpoints.suits import numerics
from .data import Splits, load_once, load_splits
from .data_report import SplitReport
from .exits import TrainerError
from .failures import explain
from .handoff import ADAPTER_FOLDER, Go, Place, end_process, write_failure
from .merging import Merge, writers
from .methods import Method, method_of, trainable
from .output import patient_output, release, take_claim, write_adapter
from .planning import Inputs, Option, estimate, settle, topology_of
from .processors import load_processor, pad_of
from .progress import Progress, serve
from .publish import MERGED_FOLDER, publish
from .resolve import ResolvedSpec, fit_length, read_facts, resolve, told_of
from .same_data import check_same
from .sharding import Base, Groups, Sharded, open_groups
from .sharding.process_groups import COLLECTIVE_TIMEOUT
from .storage import fetch_adapter
from .tasks import packing, task_of
from .train import Run, evaluate_split, train
from .usage import USAGE_NAME
from .watchdog import Watchdog, hang_seconds

log = logging.getLogger(__name__)

RENDEZVOUS_TIMEOUT: Final = timedelta(minutes=30)
"""For the other nodes to fetch their inputs; the operator ends a gang whose rest is not coming sooner."""
_TRAINED_KEY = "peftjob/trained"


def make_progress(go: Go, place: Place) -> Progress:
    """Return what this rank tells of itself, and begin to answer on rank 0."""
    spec = go.run.spec
    progress = Progress(
        go.attempt,
        talks=place.rank == 0,
        log_format=os.environ.get(ENV_LOG_FORMAT) or spec.workers.log_format,
        log_every=spec.training.log_every_steps,
    )
    if place.rank == 0 and go.status_port is not None:
        serve(progress, go.status_port)
    return progress


def run(go: Go, place: Place, progress: Progress) -> AdapterInfo | None:
    """Train, and on rank 0 publish; return what was published, None on other ranks.

    Raises:
        TrainerError: For everything that is foreseen.
    """
    least = hang_seconds(os.environ)
    device = choose_device(go.run.spec, place)
    precision = choose_precision(go.run.spec, device)
    quiet_libraries()
    progress.phase("Loading")
    processor = load_processor(go.model, go.run.spec)
    load = partial(load_once, is_first=place.local_rank == 0)
    # Before the rendezvous: bad data is told at once.
    spec, splits = load_data(go.run.spec, processor, go.model, go.work, load)
    go = replace(go, run=go.run.model_copy(update={"spec": spec}))
    progress.resolved(told_of(spec, precision))
    data = look_at(spec, processor, splits, progress) if place.rank == 0 else []
    start = read_initial(go, splits)
    inputs = Inputs(go.model, pad_of(processor), precision, splits, processor)
    demand = estimate(spec, inputs) if place.rank == 0 else None
    store = connect(place, device)
    watchdog = Watchdog(place.rank, place.world, store, progress.pulse, partial(leave, go, place, progress), least)
    check_same(splits, device, spec.workers.ranks_per_node)
    option = settle(spec, demand, inputs, store, device, ranks_here(go))
    groups = open_groups(option.group, topology_of(spec))
    merge = Merge(place.rank, place.world, writers(spec.output, spec.workers)) if spec.output.merge else None
    sharded, method = load_model(go, splits, processor, precision, device, groups, option.spare, start, merge)
    plan = expected(sharded.plan(), option)
    progress.plan(plan)
    log.info("%s", describe(plan, sharded.whole_bytes()))
    claim, published = take_claim(go) if place.rank == 0 else (None, None)
    if agree(published is not None, device):
        return published
    stored = Stored(claim, spec.checkpoint.keep_last, go.work) if claim is not None else None
    checkpoints = Checkpoints(spec.checkpoint, stored, progress.checkpoint, progress.waiting)
    try:
        job = numerics(spec, str(precision), len(splits.train.examples))
        found = go_on(stored, job, sharded.shapes(), device)
        if found is not None:
            checkpoints.resumed(found[0])
        loop = Run(
            spec=spec,
            task=task_of(spec, pad_of(processor), splits.labels, processor),
            splits=splits,
            sharded=sharded,
            method=method,
            device=device,
            progress=progress,
            interrupted=on_sigterm(),
            checkpoints=checkpoints,
            job=job,
            start=found[1] if found else None,
            older=partial(older, checkpoints, stored, device),
        )
        history = train(loop)
        if splits.test is not None:
            evaluate_split(loop, history, "test")
        watchdog.stop()
        checkpoints.close()
        if claim is None:
            store.wait([_TRAINED_KEY], COLLECTIVE_TIMEOUT)  # rank 0 may still be in the last collective
            if merge is not None:
                sharded.drop_base()
                merge.open(store, patient_output(loop))
                merge.serve()
            return None
        store.set(_TRAINED_KEY, "1")
        progress.phase("Publishing")
        progress.waiting(None)
        output = patient_output(loop)
        with tempfile.TemporaryDirectory(dir=go.work) as folder:
            write_adapter(Path(folder), go, loop, plan, history, processor, data)
            if merge is not None:
                sharded.drop_base()
                merge.open(store, output)
                merge.describe(Path(folder) / MERGED_FOLDER, processor)
                shutil.copy(Path(folder) / USAGE_NAME, Path(folder) / MERGED_FOLDER)
            adapter = publish(output, spec.output.uri, claim.through(output), Path(folder), go.run.job, merge)
        if merge is not None:
            merge.finish()
    except Exception as error:
        watchdog.stop()
        checkpoints.abandon()
        failure = explain(error)
        if claim is not None and (go.releases_claim or failure.code in PERMANENT):
            # A checkpoint that does not suit is good for the job as it was.
            over = failure.code in PERMANENT and failure.reason is not Reason.CHECKPOINT_UNSUITABLE
            release(claim, stored if over else None)
        raise
    progress.phase("Done")
    log.info("published %s: %.2f MB, sha256 of manifest.json %s", adapter.uri, adapter.size_bytes / 1e6, adapter.sha256)
    return adapter


def leave(go: Go, place: Place, progress: Progress, failure: TrainerError) -> None:
    """End this process at once, with a last word for the launcher."""
    write_failure(go.work, place.rank, failure, progress.last)
    end_process(failure.code)


def choose_device(spec: PeftJobSpec, place: Place) -> torch.device:
    """Return this rank's device: the accelerator of its local rank, or the CPU.

    Raises:
        TrainerError: `INVALID_CONFIG`: accelerators are asked for, and there are fewer.
    """
    if not spec.workers.accelerators:
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if place.local_rank >= count:
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"local rank {place.local_rank} needs an accelerator of its own, but PyTorch sees {count} here: check "
            f"spec.workers.gpusPerNode and the driver, or set spec.workers.processesPerNode to train on the CPU",
        )
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


def choose_precision(spec: PeftJobSpec, device: torch.device) -> torch.dtype:
    """Return the base's dtype."""
    if spec.training.precision == "Auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if spec.training.precision == "BF16" else torch.float32


def quiet_libraries() -> None:
    """Keep what libraries have to say about themselves out of the log."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # what peft asks it for
    warnings.filterwarnings("ignore", message="Specified to not (save|load) vera_A")  # as `methods.vera` means it


def load_data(
    spec: PeftJobSpec, processor: Any, model: Path, work: Path, load: Callable[..., Splits] = load_splits
) -> tuple[ResolvedSpec, Splits]:
    """Return the data, and the spec with what it leaves open chosen for them.

    Args:
        spec: Of the job.
        processor: Of the base: its tokenizer, or image processor.
        model: Folder with the base's config.
        work: Where remote files are copied to, and samples are kept.
        load: `load_splits`, or `load_once` where other ranks load the same.

    Raises:
        TrainerError: See `load_splits`.
    """
    facts = read_facts(model, processor, spec.base_model.uri)
    fitting = fit_length(spec, facts)
    splits = load(fitting, processor, spec.storage, work)
    return resolve(fitting, facts, len(splits.train.examples)), splits


def look_at(spec: PeftJobSpec, processor: Any, splits: Splits, progress: Progress) -> list[SplitReport]:
    """Return what the data is like, and tell of it."""
    found = data_report.describe(task_of(spec, pad_of(processor), splits.labels, processor), splits)
    progress.data(data_report.info_of(found))
    for line in data_report.lines(found):
        log.info("%s", line)
    return found


def connect(place: Place, device: torch.device) -> Any:
    """Meet the other ranks; return the store that rank 0 holds for them."""
    address, port = place.master
    store = TCPStore(address, port, place.world, is_master=place.rank == 0, timeout=RENDEZVOUS_TIMEOUT)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("peftjob", store),
        rank=place.rank,
        world_size=place.world,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    # A kernel for inference that DeepSpeed would compile now: half a minute, and images have no compiler.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return store


def load_model(
    go: Go,
    splits: Splits,
    processor: Any,
    precision: torch.dtype,
    device: torch.device,
    groups: Groups,
    spare: int = 0,
    start: initial.Initial | None = None,
    merge: Merge | None = None,
) -> tuple[Sharded, Method]:
    """Return the base in a shard group, with the parameters of the method in it, and this.

    The trained parameters are those of the adapter `start`, if there is one; `merge` learns what it has to write. On
    `spare` see `Sharded`.
    """
    spec = go.run.spec
    base = Base(go.model, spec.base_model.uri, spec.storage, precision, device, spec.training.seed)
    model, head = task_of(spec, pad_of(processor), splits.labels).skeleton(base)
    if spec.dataset.packing:
        packing.check_takes_positions(model)
    base.prepare(model, head)
    model.config.pad_token_id = pad_of(processor)
    method = method_of(spec, head, processor)
    model = method.inject(model)
    method.initialise(model, base.values)
    if start is not None:
        initial.agree(start, device)
        initial.adopt(start, method, model)
    if merge is not None:
        merge.prepare(model, base)
    log.info("%s", base.fill(model, groups))
    if spec.training.gradient_checkpointing:
        checkpoint_blocks(model)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    sharded = Sharded(model, trainable(model), spec.training, groups, spare, method.learning_rates(model))
    if spec.dataset.packing:
        packing.check_keeps_apart(model, sharded.autocast, device)
    return sharded, method


def read_initial(go: Go, splits: Splits) -> initial.Initial | None:
    """Return the adapter that the job continues from, if it does; it fits the data's labels.

    Raises:
        TrainerError: `ADAPTER_NOT_FOUND` or `ADAPTER_UNSUITABLE`.
    """
    spec = go.run.spec
    if spec.method.init_from is None:
        return None
    folder = fetch_adapter(spec.method.init_from, spec.storage, go.work / ADAPTER_FOLDER, initial.FIELD)
    found = initial.read(folder, spec.method.init_from)
    initial.check_labels(found, splits.labels)
    return found


def ranks_here(go: Go) -> int:
    """Return how many ranks share this machine's memory, or this pod's."""
    workers = go.run.spec.workers
    is_local = go.status_port is None
    return workers.world_size if is_local else workers.ranks_per_node


def expected(plan: PlanInfo, option: Option) -> PlanInfo:
    """Return how the base lies, with what was predicted of it."""
    return plan.model_copy(
        update={
            "peak_bytes_per_rank": option.parts.total,
            "memory_bytes_per_rank": option.memory,
        }
    )


def describe(plan: PlanInfo, whole: int) -> str:
    """Return a line on how the base lies."""
    mib = 2**20
    return (
        f"base: {plan.base_parameters / 1e6:.1f} M parameters, {plan.base_bytes_per_rank / mib:.1f} of "
        f"{whole / mib:.1f} MiB on each of {plan.ranks} ranks (shard group {plan.shard_group}); "
        f"trained: {plan.trainable_parameters / 1e6:.2f} M"
    )


def older(checkpoints: Checkpoints, stored: Stored | None, device: torch.device, before: int) -> TrainingState | None:
    """Return the newest checkpoint before a step, if there is one; collective."""
    checkpoints.settle()
    found = newest(stored, device, before)
    return found[1] if found else None


def agree(flag: bool, device: torch.device) -> bool:
    """Tell every rank whether any has the flag set."""
    flags = torch.tensor([int(flag)], device=device)
    dist.all_reduce(flags)
    return bool(flags.item())


def on_sigterm() -> Any:
    """Note SIGTERM from here on, instead of ending by it; return what tells whether it came."""
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    return lambda: bool(came)
