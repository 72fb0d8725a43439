"""The planner against what really happens: predicted and measured memory of each rank, by model and shard group.

Usage: plan.py [--models NAME,...] [--layouts GROUP:NODESxRANKS,...] [--json FILE]

Models of 20 to 200 M parameters, made here of random numbers, are trained for two steps by the trainer's own session.
Measured are the bytes of the base, of what is trained, of its gradients and moments, and a rank's largest resident
set; predicted is what the session planned before it read a weight. Nodes are processes on this machine, too.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kit.process import peak_memory

ROOT = Path(__file__).resolve().parents[2]
BAR_STATE, BAR_PEAK = 0.02, 0.15
LENGTH = 256
LAYOUTS = "Replicate:1x2,Node:2x2,Full:1x2"
DECODER = {
    "vocab_size": 32000, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
    "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 512,
}  # fmt: skip
ENCODER = {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 6, "intermediate_size": 3072}


@dataclass(frozen=True)
class Model:
    """A model, and how it is trained."""

    type: str
    settings: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    classifies: bool = False


MODELS = {
    "llama": Model("llama", {**DECODER, "intermediate_size": 1408, "num_key_value_heads": 4}),
    "qwen2, tied, bf16": Model(
        "qwen2",
        {**DECODER, "hidden_size": 768, "intermediate_size": 2304, "num_key_value_heads": 2,
         "tie_word_embeddings": True},
        {"precision": "BF16"},
    ),
    "mixtral, checkpointed": Model(
        "mixtral",
        {**DECODER, "intermediate_size": 1024, "num_key_value_heads": 4, "num_local_experts": 8},
        {"gradientCheckpointing": True},
    ),
    "gpt_neox": Model("gpt_neox", {**DECODER, "hidden_size": 768, "intermediate_size": 3072}),
    "bert": Model("bert", {**ENCODER, "num_attention_heads": 12, "num_hidden_layers": 12}, classifies=True),
    "roberta": Model("roberta", {**ENCODER, "num_attention_heads": 12, "pad_token_id": 0}, classifies=True),
}  # fmt: skip


def write_inputs(folder: Path, models: list[str]) -> None:
    """Write the models with a tokenizer of bytes, and texts of `LENGTH` tokens, completions and labels."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    sys.path.append(str(ROOT / "tests/numerics"))
    import tiny

    for name in models:
        torch.manual_seed(1)
        model = MODELS[name]
        auto = AutoModel if model.classifies else AutoModelForCausalLM
        dtype = torch.bfloat16 if model.training.get("precision") == "BF16" else torch.float32
        auto.from_config(AutoConfig.for_model(model.type, **model.settings), dtype=dtype).save_pretrained(
            folder / model.type
        )
        tiny.write_tokenizer(folder / model.type)
    rows = [{"prompt": "a" * (LENGTH // 2), "completion": "b" * LENGTH} for _ in range(16)]
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"text": "c" * LENGTH, "label": label} for label in tiny.LABELS * 6]
    (folder / "classes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def job(folder: Path, name: str, sharding: str, nodes: int, ranks: int) -> dict[str, Any]:
    """Return a PeftJob on a model."""
    import tiny

    model = MODELS[name]
    body = tiny.job(
        folder,
        model=model.type,
        train="classes.jsonl" if model.classifies else "completions.jsonl",
        kind="SequenceClassification" if model.classifies else "CausalLM",
        dataset={"maxLength": LENGTH},
        training={"maxSteps": 2, "batchSize": 4 * nodes * ranks, "microBatchSize": 4, **model.training},
    )
    body["spec"]["sharding"] = sharding
    body["spec"]["workers"] = {"nodes": nodes, "processesPerNode": ranks}
    body["spec"]["method"]["lora"]["rank"] = 16
    body["spec"]["output"]["uri"] = tempfile.mkdtemp(prefix="out-", dir=folder).join(("file://", ""))
    return body


def rank_main(path: Path) -> dict[str, Any]:
    """Train on one rank; return what was predicted and measured there."""
    from peftjob_api import PeftJob, RunConfig
    from peftjob_trainer import session
    from peftjob_trainer.handoff import Go, Place

    parsed = PeftJob.model_validate_json(path.read_text())
    model = Path(parsed.spec.base_model.uri.removeprefix("file://"))
    go = Go(RunConfig.of(parsed.identity, parsed.spec), 1, "gang", path.parent, model, None, True)
    kept: dict[str, Any] = {}
    keep(session, "settle", lambda option: kept.update(option=option))
    keep(session, "load_model", lambda loaded: kept.update(sharded=loaded[0], gradients=watch_gradients(loaded[0])))
    place = Place.here(os.environ)
    session.run(go, place, session.make_progress(go, place))
    sharded, option = kept["sharded"], kept["option"]
    trained = [p.data for p in sharded.trained.values()]
    moments = [t for state in sharded.optimizer.state.values() for t in state.values() if t.numel() > 1]
    return {
        "group": asdict(option.group),
        "parts": asdict(option.parts),
        "base": sharded.resident_bytes() + bytes_of(sharded.model.buffers()),
        "trained": bytes_of(trained) + bytes_of(moments) + max(kept["gradients"]),
        "peak": peak_memory(),
    }


def keep(module: Any, name: str, see: Any) -> None:
    """Show what a function of a module returns."""
    function = getattr(module, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        see(result)
        return result

    setattr(module, name, wrapped)


def watch_gradients(sharded: Any) -> list[int]:
    """Return a list that gets the bytes of the gradients of each step."""
    seen: list[int] = []
    clip = sharded.clip

    def watching(max_norm: float) -> float:
        seen.append(bytes_of(sharded.gradients().values()))
        return float(clip(max_norm))

    sharded.clip = watching
    return seen


def bytes_of(tensors: Any) -> int:
    """Return the bytes of some tensors together."""
    return sum(t.numel() * t.element_size() for t in tensors)


def run(path: Path, ranks: int) -> list[dict[str, Any]]:
    """Train once in fresh processes; return what each rank found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer")),
        "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo",
        "TOKENIZERS_PARALLELISM": "false",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank-of", str(path)],
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


def rows_of(name: str, found: list[dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    """Return what a run says of the two bars; of its ranks the one that is furthest off counts."""
    parts = found[0]["parts"]
    state, peak = parts["base"] + parts["trained"], sum(parts.values())
    off_state = max((state / (rank["base"] + rank["trained"]) - 1 for rank in found), key=abs)
    off_peak = max((peak / rank["peak"] - 1 for rank in found), key=abs)
    mib = 2**20
    highest = max(rank["peak"] for rank in found)
    return [
        (f"{name}: base + trained", f"within {BAR_STATE:.0%}", f"{state / mib:.1f} MiB, {off_state:+.2%}",
         abs(off_state) <= BAR_STATE),
        (f"{name}: peak", f"within {BAR_PEAK:.0%}",
         f"{peak / mib:.0f} MiB for {highest / mib:.0f}, {off_peak:+.1%}", abs(off_peak) <= BAR_PEAK),
    ]  # fmt: skip


def main() -> None:
    """Measure, or be one rank of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="default: all", action="append", choices=list(MODELS))
    parser.add_argument("--layouts", default=LAYOUTS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        print(json.dumps(rank_main(options.rank_of)), flush=True)
        os._exit(0)
    names = options.models or list(MODELS)
    rows: list[tuple[str, str, str, bool]] = []
    runs: list[dict[str, Any]] = []
    print(f"{'what':52}{'bar':14}{'figure':32}met")
    with tempfile.TemporaryDirectory(prefix="peftjob-bench-") as temporary:
        folder = Path(temporary)
        write_inputs(folder, names)
        for name in names:
            for layout in options.layouts.split(","):
                sharding, _, shape = layout.partition(":")
                nodes, ranks = map(int, shape.split("x"))
                path = folder / "job.json"
                path.write_text(json.dumps(job(folder, name, sharding, nodes, ranks)))
                found = run(path, nodes * ranks)
                runs.append({"model": name, "layout": layout, "ranks": found})
                for row in rows_of(f"{name}, {sharding} on {shape}", found):
                    rows.append(row)
                    print(f"{row[0]:52}{row[1]:14}{row[2]:32}{'met' if row[3] else 'MISSED'}", flush=True)
    print(f"bars met: {sum(row[3] for row in rows)} of {len(rows)}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
