"""Loading a sharded base: ours against `from_pretrained` under an `HfDeepSpeedConfig`.

Usage: load.py [--ranks N] [--rounds N] [--layers N] [--folder FOLDER] [--json FILE]

A Llama of 1.1 B parameters in bf16, made here of random numbers, lies on a local disk and in its page cache. The two
ways take turns, in fresh processes each time; the time is from the start of loading to the last rank's end of it,
imports aside. Peak memory is a rank's largest resident set up to there, libraries included.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARD_BYTES = 10**9
CONFIG = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
BAR_RATIO, BAR_RSS_BYTES, BAR_READ = 8.0, 0.9e9, 1.02


def write_model(folder: Path, layers: int) -> int:
    """Write the model, in shards; return its bytes. Its numbers repeat, which no loader can know."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**CONFIG, num_hidden_layers=layers, dtype="bfloat16")
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(1)
    block = (0.02 * torch.randn(2**22, generator=generator)).to(torch.bfloat16)
    shards: list[dict[str, Any]] = [{}]
    size = total = 0
    for name, parameter in model.state_dict().items():
        number = parameter.numel()
        if size and size + 2 * number > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = block.repeat(-(-number // block.numel()))[:number].view(parameter.shape)
        size += 2 * number
        total += 2 * number
    mapping = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        mapping |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": mapping}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    return total


def rank_main(way: str, folder: Path) -> dict[str, Any]:
    """Load on one rank; return what is measured."""
    import torch
    import torch.distributed as dist
    from peftjob_api.spec import StorageSpec
    from peftjob_trainer import session
    from peftjob_trainer.handoff import Place
    from peftjob_trainer.sharding import Base, zero3
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    session.quiet_libraries()
    session.connect(Place.here(os.environ), torch.device("cpu"))
    before = peak_memory()
    dist.barrier()
    began = rchar()
    started, cpu = time.monotonic(), time.process_time()
    read = None
    if way == "ours":
        base = Base(folder, f"file://{folder}", StorageSpec(), torch.bfloat16, torch.device("cpu"), seed=1)
        model = base.skeleton(AutoModelForCausalLM)
        base.prepare(model)
        base.fill(model.requires_grad_(False))
        read = base.source.bytes_read
    else:
        held = HfDeepSpeedConfig(zero3.zero_config(torch.bfloat16))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        del held
    cpu = time.process_time() - cpu
    dist.barrier()
    seconds = time.monotonic() - started
    peak = peak_memory()
    shares = sum(getattr(p, "ds_tensor", p).detach().double().abs().sum().item() for p in model.parameters())
    return {
        "seconds": seconds, "cpu": cpu, "peak": peak, "before": before, "read": read, "rchar": rchar() - began,
        "shares": shares,
    }  # fmt: skip


def peak_memory() -> int:
    """Return the largest resident set of this process in bytes; unlike ru_maxrss, not that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def rchar() -> int:
    """Return the bytes that this process has read so far, by system calls."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def run(way: str, folder: Path, ranks: int) -> list[dict[str, Any]]:
    """Load once in fresh processes; return what each rank measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer")),
        "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks),
    }  # fmt: skip
    command = [sys.executable, __file__, "--rank-of", way, "--folder", str(folder)]
    processes = [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise SystemExit(errors[-3000:])
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


def report(rounds: dict[str, list[list[dict[str, Any]]]], base: int, ranks: int) -> dict[str, Any]:
    """Print the table; return its figures."""
    seconds = {way: [max(r["seconds"] for r in ranks_) for ranks_ in runs] for way, runs in rounds.items()}
    ours = [rank for ranks_ in rounds["ours"] for rank in ranks_]
    library = [rank for ranks_ in rounds["library"] for rank in ranks_]
    share = base / ranks
    ratio = min(seconds["library"]) / min(seconds["ours"])
    peak = max(r["peak"] for r in ours)
    read = max(r["read"] for r in ours)
    same = all(abs(a["shares"] - b["shares"]) <= 1e-9 * b["shares"] for a, b in zip(ours, library, strict=True))
    rows = [
        ("time of the library / ours, minima", f">= {BAR_RATIO}", f"{ratio:.1f}", ratio >= BAR_RATIO),
        ("peak RSS of a rank", f"<= base/N + 0.9 GB = {(share + BAR_RSS_BYTES) / 1e9:.2f} GB", f"{peak / 1e9:.2f} GB",
         peak <= share + BAR_RSS_BYTES),
        ("base bytes read by a rank", f"<= {BAR_READ} x base/N", f"{read / share:.4f} x", read <= BAR_READ * share),
        ("values of the partitions", "as the library's", "the same" if same else "others", same),
    ]  # fmt: skip
    for way, found in seconds.items():
        each = "  ".join(f"{s:.2f}" for s in found)
        cpu = min(max(r["cpu"] for r in ranks_) for ranks_ in rounds[way])
        print(f"{way:8} seconds {each}   min {min(found):.2f}  median {statistics.median(found):.2f}  CPU {cpu:.2f}")
    print(
        f"peak RSS of the library: {max(r['peak'] for r in library) / 1e9:.2f} GB; of a rank before it loads: "
        f"{max(r['before'] for r in ours) / 1e9:.2f} GB; base {base / 1e9:.2f} GB on {ranks} ranks"
    )
    print(f"\n{'what':40}{'bar':40}{'figure':14}met")
    for what, bar, figure, met in rows:
        print(f"{what:40}{bar:40}{figure:14}{'met' if met else 'MISSED'}")
    print(f"bars met: {sum(row[3] for row in rows)} of {len(rows)}")
    return {"seconds": seconds, "rows": [list(row) for row in rows], "rounds": rounds}


def main() -> None:
    """Measure, or be one rank of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--folder", type=Path, help="where the model is, or is to be kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank-of", choices=["ours", "library"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        print(json.dumps(rank_main(options.rank_of, options.folder)), flush=True)
        os._exit(0)
    with tempfile.TemporaryDirectory(prefix="peftjob-bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.json").exists():
            write_model(folder, options.layers)
        files = sorted(folder.glob("*.safetensors"))
        for file in files:
            file.read_bytes()  # into the page cache
        base = sum(file.stat().st_size for file in files)
        rounds: dict[str, list[list[dict[str, Any]]]] = {"ours": [], "library": []}
        for _ in range(options.rounds):
            for way, runs in rounds.items():
                runs.append(run(way, folder, options.ranks))
        found = report(rounds, base, options.ranks)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
