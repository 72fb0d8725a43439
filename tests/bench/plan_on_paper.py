"""Plans Llamas of 8, 70 and 405 billion parameters for 1 to 8 nodes of eight GPUs, from their configs alone.

Usage: plan_on_paper.py [--memory 80GiB] [--nodes 1,2,4,8]

LoRA of rank 16 on all linear modules, bf16, gradient checkpointing, micro batches of one row of 4096 tokens. Prints the
Markdown of the table in docs/performance.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("crds", "trainer")]
GPUS, LENGTH = 8, 4096
COMMON = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rope_theta": 500000.0}
MODELS: dict[str, dict[str, Any]] = {
    "8 B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70 B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "405 B": {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128},
}


def job(nodes: int) -> dict[str, Any]:
    """Return the job that is planned."""
    return {
        "apiVersion": "peftjob.io/v1alpha1",
        "kind": "PeftJob",
        "metadata": {"name": "paper"},
        "spec": {
            "baseModel": {"uri": "s3://models/paper"},
            "dataset": {"train": "s3://data/train.jsonl", "maxLength": LENGTH},
            "method": {"type": "LoRA", "lora": {"rank": 16}},
            "training": {"precision": "BF16", "gradientCheckpointing": True, "batchSize": GPUS, "microBatchSize": 1},
            "workers": {"nodes": nodes, "gpusPerNode": GPUS},
            "output": {"uri": "s3://adapters/paper"},
        },
    }


def main() -> None:
    """Print the table."""
    import torch
    from peftjob_api import PeftJob
    from peftjob_trainer import session
    from peftjob_trainer.plan import memory_of
    from peftjob_trainer.planning.choose import choose, named, options, size, topology_of
    from peftjob_trainer.planning.estimate import Inputs, estimate
    from transformers import LlamaConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=memory_of, default=memory_of("80GiB"))
    parser.add_argument("--nodes", default="1,2,4,8")
    arguments = parser.parse_args()
    session.quiet_libraries()
    columns = ("base", "gathered", "activations", "trained", "runtime")
    print(f"| model | nodes x GPUs | shard group | {' | '.join(columns)} | peak |\n|{'---|' * (len(columns) + 4)}")
    for name, settings in MODELS.items():
        with tempfile.TemporaryDirectory(prefix="peftjob-bench-") as temporary:
            LlamaConfig(**COMMON, **settings).save_pretrained(temporary)
            inputs = Inputs(Path(temporary), 0, torch.bfloat16)
            demand = estimate(PeftJob.model_validate(job(1)).spec, inputs)
        for nodes in map(int, arguments.nodes.split(",")):
            found = options(demand, topology_of(PeftJob.model_validate(job(nodes)).spec), arguments.memory, "Auto")
            shown = choose(found) or min(found, key=lambda option: option.parts.total)
            group = named(shown.group) if shown.fits else f"none fits, {named(shown.group)} would need"
            cells = [size(getattr(shown.parts, column)) for column in columns]
            print(f"| {name} | {nodes} x {GPUS} | {group} | {' | '.join(cells)} | {size(shown.parts.total)} |")


if __name__ == "__main__":
    main()
