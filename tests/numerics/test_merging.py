"""A merged model is base and adapter to the last digit of its dtype, written by 1, 2 and 3 ranks."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import ARCHITECTURES, Architecture, write
from conftest import run_ranks
from merging_rank import LARGE, LARGE_ROWS, MERGED
from peft import PeftModel
from safetensors import safe_open

WORLD = 3
EACH = [(number, a) for number, a in enumerate(ARCHITECTURES) if a.name in MERGED]
each = pytest.mark.parametrize(("number", "architecture"), EACH, ids=[a.name for _, a in EACH])


@pytest.fixture(scope="session")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which three ranks have merged everything."""
    folder = tmp_path_factory.mktemp("merged")
    write(folder, MERGED)
    config = transformers.LlamaConfig(**LARGE, intermediate_size=LARGE_ROWS)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "large")
    run_ranks("merging_rank.py", [str(folder)], folder, WORLD)
    return folder


def state(folder: Path, architecture: Architecture, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return getattr(transformers, architecture.auto).from_pretrained(folder, dtype=dtype).state_dict()


def by_peft(folder: Path, number: int, architecture: Architecture, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return what peft makes of base and adapter, in a dtype."""
    auto = getattr(transformers, architecture.auto)
    labels = {} if "Causal" in architecture.auto else {"num_labels": 3}
    base = auto.from_pretrained(folder / str(number), dtype=dtype, **labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that this deprecates
        return PeftModel.from_pretrained(base, str(folder / f"adapter-{number}")).merge_and_unload().state_dict()


@each
def test_a_merged_model_is_what_peft_makes_in_fp32_rounded_once(
    merged: Path, number: int, architecture: Architecture
) -> None:
    dtype = getattr(torch, architecture.stored)
    wanted = by_peft(merged, number, architecture, torch.float32)
    base = state(merged / str(number), architecture, torch.float32)
    assert any(name in base and not torch.equal(base[name], value) for name, value in wanted.items())
    found = state(merged / f"out-{number}-{WORLD}" / "merged", architecture, dtype)
    assert found.keys() == wanted.keys()
    assert [n for n, v in found.items() if v.dtype == dtype and not torch.equal(v, wanted[n].to(dtype))] == []


def test_peft_s_own_way_in_bf16_rounds_twice_and_is_a_step_away(merged: Path) -> None:
    number, architecture = next((n, a) for n, a in EACH if a.name == "llama, in bf16")
    wanted = by_peft(merged, number, architecture, torch.bfloat16)
    found = state(merged / f"out-{number}-{WORLD}" / "merged", architecture, torch.bfloat16)
    step = 2.0**-7  # of bf16, relative
    for name, value in found.items():
        scale = torch.maximum(value.float().abs(), torch.tensor(0.05))
        assert float(((value.float() - wanted[name].float()).abs() / scale).max()) <= step, name


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    return found


def test_the_number_of_writers_changes_nothing(merged: Path) -> None:
    number = next(n for n, a in EACH if a.name == "llama, in shards")
    folders = [merged / f"out-{number}-{writers}" / "merged" for writers in range(1, WORLD + 1)]
    first = tensors(folders[0])
    for writers, folder in enumerate(folders, 1):
        files = [f"model-{k:05}-of-{writers:05}.safetensors" for k in range(1, writers + 1)]
        assert sorted(p.name for p in folder.glob("*.safetensors")) == files
        found = tensors(folder)
        assert found.keys() == first.keys()
        assert all(torch.equal(found[key], first[key]) for key in first)


def test_ranks_write_like_shares(merged: Path) -> None:
    number = next(n for n, a in EACH if a.name == "llama, in shards")
    sizes = [p.stat().st_size for p in (merged / f"out-{number}-{WORLD}" / "merged").glob("*.safetensors")]
    assert max(sizes) < 1.2 * sum(sizes) / WORLD


@each
def test_untouched_tensors_keep_their_keys_and_bytes(merged: Path, number: int, architecture: Architecture) -> None:
    before, after = tensors(merged / str(number)), tensors(merged / f"out-{number}-{WORLD}" / "merged")
    norms = [key for key in before if "norm" in key.lower() and key in after]
    assert norms or architecture.saved_as or architecture.name == "gpt2"
    for key in norms:
        assert before[key].dtype == after[key].dtype
        assert torch.equal(before[key], after[key]), key


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())["files"]


def test_the_manifest_has_digests_of_all_files(merged: Path) -> None:
    from hashlib import sha256

    for number, _ in EACH:
        out = merged / f"out-{number}-{WORLD}"
        entries = manifest(out)
        assert {f"merged/model-{k:05}-of-{WORLD:05}.safetensors" for k in range(1, WORLD + 1)} < entries.keys()
        for name, entry in entries.items():
            data = (out / name).read_bytes()
            assert (sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["sizeBytes"]), name


def test_no_rank_holds_more_than_some_of_the_largest_tensor(merged: Path) -> None:
    memory = json.loads((merged / "memory.json").read_text())
    largest = 2 * LARGE["hidden_size"] * LARGE_ROWS
    assert memory["peak"] - memory["before"] <= 3 * largest
    assert memory["peak"] <= 3 * largest + 0.9e9
    total = sum(path.stat().st_size for path in (merged / "out-large" / "merged").glob("*.safetensors"))
    assert total > 3 * largest, "else the bound would say little"
