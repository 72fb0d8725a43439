"""Says before anything runs how a PeftJob would lie on its workers, and whether it fits.

    python -m peftjob_trainer.plan job.yaml [--memory 80GiB] [--nodes N] [--base FOLDER]

It needs no cluster, no GPU and no weights: of the base model it reads the config and the headers (over S3 or from a hub
as well), of the data the files that lie on this machine. --memory is that of each GPU (default: 80GiB), or of each
pod of a job on the CPU (default: this machine's). --nodes plans for another number of workers.nodes. --base names a
local folder with the base's config and tokenizer, for one that cannot be reached from here, such as a pvc:// uri.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from peftjob_api import PeftJobSpec, Reason

from . import session
from .commands import Parser, exit_code_of
from .exits import TrainerError
from .launch import from_file
from .planning.choose import Option, choose, named, options, size, table, topology_of, writing_costs
from .planning.demand import Demand
from .planning.estimate import Inputs, estimate, largest_batches
from .planning.memory import host_memory, mapped_bytes, share_of
from .planning.remedies import does_not_fit
from .processors import IMAGE_TASKS, load_processor, pad_of
from .resolve import ResolvedSpec, fit_length, read_facts, resolve
from .storage import all_here, fetch_model

GPU_MEMORY: Final = 80 * 2**30
_UNITS: Final = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4} | {
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40
}  # fmt: skip


def memory_of(text: str) -> int:
    """Return bytes from a quantity, such as `80GiB`, `64Gi` or `512M`.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", text.strip())
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory: write it as 80GiB or 512Mi")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def count_of(text: str) -> int:
    """Return a positive number.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of nodes from 1 to 1024")
    return int(text)


def inputs_of(spec: PeftJobSpec, folder: Path, work: Path) -> tuple[ResolvedSpec, Inputs, str]:
    """Return the spec with nothing left open, what is known beside it, and a sentence on the data."""
    processor = load_processor(folder, spec)
    automatic = torch.bfloat16 if spec.workers.accelerators else torch.float32
    if _is_here(spec):
        resolved, splits = session.load_data(spec, processor, folder, work)
        return (
            resolved,
            Inputs(folder, pad_of(processor), automatic, splits, processor),
            "lengths are those of the data",
        )
    facts = read_facts(folder, processor, spec.base_model.uri)
    resolved = resolve(fit_length(spec, facts), facts, None)
    why = "the data is not on this machine: planned as if examples were of dataset.maxLength tokens"
    return resolved, Inputs(folder, pad_of(processor), automatic, processor=processor), why


def _is_here(spec: PeftJobSpec) -> bool:
    """Tell whether all data lies on this machine."""
    return all_here(uri for split in ("train", "validation", "test") for uri in spec.dataset.files(split))


def memory_per_rank(spec: PeftJobSpec, given: int | None) -> int:
    """Return the bytes that each rank can have."""
    if spec.workers.accelerators:
        return given or GPU_MEMORY
    ranks = spec.workers.ranks_per_node
    return share_of(given or host_memory({}, 0), ranks) + mapped_bytes()


def report(spec: ResolvedSpec, inputs: Inputs, why: str, demand: Demand, found: Sequence[Option]) -> list[str]:
    """Return what is printed of a plan."""
    taken = choose(found, is_rough=demand.is_rough)
    workers, training = spec.workers, spec.training
    batch, _ = largest_batches(spec, inputs.splits, inputs.task(spec))
    kind = "GPU" if workers.accelerators else "process"
    unit = "patches of an image" if spec.task.type in IMAGE_TASKS else "tokens"
    dtype = str(inputs.dtype(spec)).removeprefix("torch.")
    lines = [
        f"{spec.base_model.uri}: {demand.base_parameters / 1e9:.2f} B frozen parameters in {dtype}, "
        f"{size(demand.base_bytes)}; {demand.trained / 1e6:.2f} M trained ones in float32",
        f"{workers.nodes} node(s) with {workers.ranks_per_node} {kind}(s) of {size(found[0].memory)} each; "
        f"a micro step of {batch.rows} x {batch.example.length} {unit}, gradient checkpointing "
        f"{'on' if training.gradient_checkpointing else 'off'}; {why}",
        "",
        *table(found, taken),
    ]
    if taken is not None:
        others = "the only group asked for" if spec.sharding != "Auto" else "the smallest group that fits"
        lines += ["", f"sharding {spec.sharding} takes {named(taken.group)}: {others}, with a reserve of a tenth"]
        costs = writing_costs(demand, taken)
        lines += [costs] if costs else []
    return lines


def plan(options_: argparse.Namespace) -> None:
    """Print the plan of a job.

    Raises:
        TrainerError: `DOES_NOT_FIT`, or that the job's file or its base cannot be used.
    """
    spec = from_file(options_.job).run.spec
    if options_.nodes:
        workers = spec.workers.model_copy(update={"nodes": options_.nodes})
        spec = spec.model_copy(update={"workers": workers})
    with tempfile.TemporaryDirectory(prefix="peftjob-plan-") as temporary:
        work = Path(temporary)
        if options_.base is not None and not (options_.base / "config.json").is_file():
            raise TrainerError(Reason.BASE_MODEL_NOT_FOUND, f"--base {options_.base}: there is no config.json in it")
        folder = options_.base or fetch_model(spec.base_model, spec.storage, work / "model")
        resolved, inputs, why = inputs_of(spec, folder, work)
        demand = estimate(resolved, inputs)
        found = options(demand, topology_of(spec), memory_per_rank(spec, options_.memory), spec.sharding)
        print("\n".join(report(resolved, inputs, why, demand, found)), flush=True)
        if choose(found, is_rough=demand.is_rough) is None:
            raise does_not_fit(resolved, found, demand, lambda changed: estimate(changed, inputs))


def main(arguments: Sequence[str]) -> int:
    """Run; return the exit code."""
    parser = Parser(
        prog="python -m peftjob_trainer.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path)
    parser.add_argument("--memory", type=memory_of)
    parser.add_argument("--nodes", type=count_of)
    parser.add_argument("--base", type=Path)
    session.quiet_libraries()
    return exit_code_of(lambda: plan(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
