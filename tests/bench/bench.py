"""What PeftJob costs beside today's stack (HF Trainer, DeepSpeed ZeRO-3, peft), from loading to saving.

Usage: bench.py [--only PARTS] [--quick] [--rounds N] [--device cpu|cuda] [--models FOLDER] [--json FILE]

The parts are `load`, `reads`, `traffic`, `steps` and `checkpoints`. Each but the last runs ours and theirs on the same
models, data, seeds and versions, in turns and in fresh processes, and holds what it counts against a bar. Counts carry
over to other machines, times do not: they stand as ratios. With `--device cuda` other parts run, on one accelerator:
`agreement` with the CPU, and one for each model, which `--models` keeps (18 GB in all). `--quick` checks the bench
itself, on small models and with one round: its ratios of times mean nothing.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import agreement
import checkpoints
import device as device_part
import load
import reads
import steps
import traffic
from kit.command import finish, scratch
from kit.table import Found

Part = Callable[[Path], Found]


def parts(device: str, rounds: int, models: Path | None, *, quick: bool) -> dict[str, Part]:
    """Return the parts for a device, in their order."""
    if device == "cuda":
        sizes = device_part.SMALL if quick else device_part.CASES
        return {"agreement": agreement.measure} | {
            name: partial(device_part.measure, name, rounds=rounds, folder=models) for name in sizes
        }
    return {
        "load": lambda folder: load.measure(folder / "model", folder, 2, rounds, layers=2 if quick else 22),
        "reads": lambda folder: reads.measure(folder, quick=quick),
        "traffic": lambda folder: traffic.measure(folder, quick=quick),
        "steps": lambda folder: steps.measure(folder, rounds, quick=quick),
        "checkpoints": lambda folder: checkpoints.measure(folder, rounds, quick=quick),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="parts, by commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3, help="of what is timed")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", type=Path, help="where the models of --device cuda are, or are to be kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    every = parts(options.device, 1 if options.quick else options.rounds, options.models, quick=options.quick)
    chosen = options.only.split(",") if options.only else list(every)
    unknown = set(chosen) - every.keys()
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(every)}")
    found = {}
    with scratch() as folder:
        for name in chosen:
            started = time.monotonic()
            (folder / name).mkdir()
            found[name] = every[name](folder / name)
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    finish(found, options.json)


if __name__ == "__main__":
    main()
