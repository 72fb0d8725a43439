"""Loading a sharded base: ours against `from_pretrained` under an `HfDeepSpeedConfig`.

Usage: load.py [--ranks N] [--rounds N] [--layers N] [--folder FOLDER] [--json FILE]

A Llama of 1.1 B parameters in bf16, made here of random numbers, lies on a local disk and in its page cache. The two
ways take turns, in fresh processes each time; the time is from the start of loading to the last rank's end of it,
imports aside. Peak memory is a rank's largest resident set up to there, libraries included.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from kit import models
from kit.command import finish, scratch
from kit.launch import Gang, in_turns, run_ranks
from kit.table import Found, Row, at_least, at_most, equal, said

BAR_RATIO, BAR_RSS_BYTES, BAR_READ = 8.0, 0.9e9, 1.02
WAYS = ("ours", "library")
Rounds = dict[str, list[list[dict[str, Any]]]]


def measure(folder: Path, scratch: Path, ranks: int, rounds: int, layers: int = 22) -> Found:
    """Load in turns; `folder` holds the model, or is where it is made."""
    models.write("llama-1.1b", folder, "bfloat16", num_hidden_layers=layers)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        file.read_bytes()  # into the page cache
    base = sum(file.stat().st_size for file in files)
    gang = Gang(ranks_per_node=ranks)
    found: Rounds = {way: [] for way in WAYS}
    for _, way in in_turns(rounds, WAYS):
        found[way].append(run_ranks("timed_load", {"way": way, "model": str(folder)}, gang, scratch))
    return report(found, base, ranks)


def report(rounds: Rounds, base: int, ranks: int) -> Found:
    """Return the rows, after a line on each way."""
    seconds = {way: [max(r["seconds"] for r in each) for each in runs] for way, runs in rounds.items()}
    ours, library = ([rank for each in rounds[way] for rank in each] for way in WAYS)
    share = base / ranks
    for way, times in seconds.items():
        cpu = min(max(r["cpu"] for r in each) for each in rounds[way])
        every = "  ".join(f"{s:.2f}" for s in times)
        extremes = f"min {min(times):.2f}  median {statistics.median(times):.2f}"
        print(f"load, {way:8} seconds {every}   {extremes}  CPU {cpu:.2f}")
    print(
        f"load: base {said(base, 'B')} on {ranks} ranks; a rank has {said(max(r['before'] for r in ours), 'B')} "
        f"resident before it loads"
    )
    same = all(abs(a["shares"] - b["shares"]) <= 1e-9 * b["shares"] for a, b in zip(ours, library, strict=True))
    peak, read = max(r["peak"] for r in ours), max(r["read"] for r in ours)
    rows: list[Row] = [
        at_least("loading: time of the library by ours, minima", min(seconds["library"]) / min(seconds["ours"]),
                 BAR_RATIO, "x"),
        at_most("loading: peak RSS of a rank (base/N + 0.9 GB)", peak, share + BAR_RSS_BYTES, "B",
                library=max(r["peak"] for r in library)),
        at_most("loading: base bytes read by a rank, by base/N", read / share, BAR_READ, "x"),
        equal("loading: values of the partitions, beside the library's", holds=same),
    ]  # fmt: skip
    return Found(rows, {"seconds": seconds, "rounds": rounds, "base": base, "ranks": ranks})


def main() -> None:
    """Measure this part alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--folder", type=Path, help="where the model is, or is to be kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with scratch() as temporary:
        found = measure(options.folder or temporary / "model", temporary, options.ranks, options.rounds, options.layers)
    finish({"load": found}, options.json)


if __name__ == "__main__":
    main()
