"""`python -m peftjob_trainer.plan`: every sample is planned from a config, and what is wrong is told in a line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from peftjob_trainer import plan
from transformers import AutoConfig

ROOT = Path(__file__).resolve().parents[4]
sys.path.append(str(ROOT / "tests/numerics"))

import tiny  # noqa: E402 (after the path)

SAMPLES = sorted((ROOT / "crds/samples").glob("*.yaml"))
BASES = {
    "sentiment": "bert",
    "recommendation": "bert",
    "imaging": "vit",
    "translation-low-resource": "t5",
    "translation-regional": "t5",
}
"""Of the samples that are not for a decoder."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with a config and a tokenizer or an image processor."""
    folder = tmp_path_factory.mktemp("bases")
    for name in ("llama", "bert"):
        extra: dict[str, Any] = {"num_key_value_heads": 1} if name == "llama" else {}
        config = AutoConfig.for_model(name, **tiny.SIZES, num_hidden_layers=2, pad_token_id=0, **extra)
        config.save_pretrained(folder / name)
        tiny.write_tokenizer(folder / name)
    tiny.write_vit(folder / "vit")
    tiny.write_t5(folder / "t5")
    return folder


@pytest.mark.parametrize("sample", SAMPLES, ids=[path.stem for path in SAMPLES])
def test_samples_are_planned(sample: Path, bases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = bases / BASES.get(sample.stem, "llama")
    assert plan.main([str(sample), "--base", str(base)]) == 0
    said = capsys.readouterr().out
    assert "the data is not on this machine" in said
    want = (
        "Full takes Full (2 ranks): the only group asked for"
        if "sharding: Full" in sample.read_text()
        else ("Auto takes Replicate (1 rank): the smallest group that fits")
    )
    assert f"sharding {want}" in said
    assert sum(line.endswith("  taken") for line in said.splitlines()) == 1


def test_other_nodes_and_memory(bases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = ROOT / "crds/samples/chat.yaml"
    assert plan.main([str(sample), "--base", str(bases / "llama"), "--nodes", "4", "--memory", "40Gi"]) == 0
    said = capsys.readouterr().out
    assert "4 node(s) with 8 GPU(s) of 40.0 GiB each" in said
    assert "Nodes (16 ranks)" in said
    assert "Full (32 ranks)" in said


def test_a_job_that_does_not_fit_ends_with_64(bases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = ROOT / "crds/samples/chat.yaml"
    assert plan.main([str(sample), "--base", str(bases / "llama"), "--memory", "1GiB"]) == 64
    said = capsys.readouterr()
    assert "does not fit" in said.out
    assert said.err.startswith("DoesNotFit: the job needs 2.")
    assert "what would fit: GPUs of 2." in said.err


def test_lengths_are_those_of_data_that_is_here(
    bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_completions(tmp_path / "train.jsonl", 20)
    body = tiny.job(tmp_path, model="none", train="train.jsonl", kind="CausalLM", dataset={"maxLength": 1000})
    (tmp_path / "job.yaml").write_text(json.dumps(body))
    assert plan.main([str(tmp_path / "job.yaml"), "--base", str(bases / "llama")]) == 0
    said = capsys.readouterr().out
    assert "lengths are those of the data" in said
    assert "x 1000 tokens" not in said


BAD: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "no such file": (["nowhere.yaml"], 64, ("InvalidConfig", "nowhere.yaml")),
    "no amount": (["JOB", "--memory", "lots"], 64, ("--memory", "80GiB")),
    "no number": (["JOB", "--nodes", "0"], 64, ("--nodes", "1 to 1024")),
    "no base": (["JOB", "--base", "nowhere"], 66, ("BaseModelNotFound", "nowhere", "config.json")),
    "an unknown option": (["JOB", "--gpus", "3"], 64, ("--gpus",)),
}


@pytest.mark.parametrize(("arguments", "want_code", "want"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_told(
    arguments: list[str], want_code: int, want: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    sample = str(ROOT / "crds/samples/minimal.yaml")
    assert plan.main([sample if a == "JOB" else a for a in arguments]) == want_code
    said = capsys.readouterr().err
    assert [part for part in want if part not in said] == [], said


@pytest.mark.parametrize(
    ("text", "want"), [("80GiB", 80 * 2**30), ("64Gi", 64 * 2**30), ("512M", 512 * 10**6), ("1.5G", 15 * 10**8)]
)
def test_amounts_of_memory(text: str, want: int) -> None:
    assert plan.memory_of(text) == want
