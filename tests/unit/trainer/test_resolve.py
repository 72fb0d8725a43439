"""What a job leaves open, and what is chosen for it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from peftjob_api import PeftJobSpec
from peftjob_api.low_rank_methods import LoRAMethod
from peftjob_api.method_spec import MethodSpec
from peftjob_api.task_spec import RankingTask, TaskSpec
from peftjob_trainer.resolve import Facts, fit_length, read_facts, resolve, told_of
from transformers import AutoConfig

WIDE = Facts(2048, None)


def spec(method: str = "LoRA", max_length: int = 1024, **training: Any) -> PeftJobSpec:
    return PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "s3://models/base"},
            "method": {
                "type": method,
                **({"trainableTokens": {"tokens": ["a"]}} if method == "TrainableTokens" else {}),
            },
            "dataset": {"train": "s3://data/train.jsonl", "maxLength": max_length},
            "training": training,
            "output": {"uri": "s3://adapters/out"},
        }
    )


@pytest.mark.parametrize(
    ("examples", "given", "want"),
    [
        (64, {}, (16, 75.0)),
        (20, {}, (16, 75.0)),
        (500, {}, (16, 10.0)),
        (1_600, {}, (16, 3.0)),
        (10_000, {}, (32, 3.0)),
        (200_000, {}, (64, 3.0)),
        (1_000_000, {}, (64, 1.28)),
        (10_000_000, {}, (64, 1.0)),
        (None, {}, (32, 3.0)),
        (64, {"batchSize": 8}, (8, 38.0)),
        (64, {"epochs": 2}, (16, 2.0)),
        (64, {"maxSteps": 7}, (16, None)),
        (64, {"microBatchSize": 24}, (24, 75.0)),
    ],
    ids=[
        "64 labelled examples are seen until there were 300 steps",
        "twenty, not more often",
        "hundreds, until there were 300 steps",
        "thousands, three times",
        "tens of thousands in larger batches",
        "hundreds of thousands in still larger ones",
        "a million not all twice",
        "ten millions once",
        "nothing is known of the data",
        "a batch that is given",
        "epochs that are given",
        "steps that are given",
        "a batch holds a micro batch that is given",
    ],
)
def test_batch_and_epochs(examples: int | None, given: dict[str, Any], want: tuple[int, float | None]) -> None:
    found = resolve(spec(**given), WIDE, examples).training
    assert (found.batch_size, found.epochs) == want
    assert found.max_steps == given.get("maxSteps")


@pytest.mark.parametrize(
    ("examples", "want"),
    [(64, 75.0), (448, 11.0), (800, 8.0), (2_000, 8.0), (8_000, 4.0), (20_000, 3.0), (1_000_000, 1.28)],
    ids=["few", "hundreds", "nearly a thousand", "two thousand", "thousands", "many", "a million"],
)
def test_what_validation_chooses_from_is_seen_more_often(examples: int, want: float) -> None:
    judged = spec()
    judged = judged.model_copy(update={"dataset": judged.dataset.model_copy(update={"validation_fraction": 0.1})})
    assert resolve(judged, WIDE, examples).training.epochs == want


@pytest.mark.parametrize(
    ("task", "has_validation", "given", "want"),
    [
        ("Seq2SeqLM", True, {}, ("ChrF", (100, 64))),
        ("Seq2SeqLM", True, {"evaluation": {"metric": "Loss"}}, ("Loss", None)),
        ("Seq2SeqLM", True, {"evaluation": {}}, (None, None)),
        ("Seq2SeqLM", False, {}, None),
        ("CausalLM", True, {}, None),
    ],
    ids=[
        "a translator by what it writes",
        "not if told so",
        "nor if left to its default",
        "nothing to judge",
        "others",
    ],
)
def test_what_judges(task: str, has_validation: bool, given: dict[str, Any], want: Any) -> None:
    told = {**spec().to_wire(), "task": {"type": task}, "training": given}
    told["dataset"] |= {"validation": "s3://data/validation.jsonl"} if has_validation else {}
    resolved = resolve(PeftJobSpec.model_validate(told), WIDE, 100)
    found = resolved.training.evaluation
    decides = told_of(resolved, torch.float32).metric
    assert decides == (((found and found.metric) or "Loss") if has_validation else None)
    generate = found and found.generate
    assert (found and (found.metric, generate and (generate.max_samples, generate.max_new_tokens))) == want


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({}, (64, 32)),
        ({"batchSize": 24}, (24, 24)),
        ({"microBatchSize": 4}, (64, 4)),
        ({"microBatchSize": 96}, (96, 96)),
    ],
    ids=["nothing", "a batch", "few at once", "many at once"],
)
def test_rows_are_ranked_against_many_others(given: dict[str, Any], want: tuple[int, int]) -> None:
    ranking = spec(**given).model_copy(update={"task": TaskSpec(type="Ranking")})
    found = resolve(ranking, WIDE, 800).training
    assert (found.batch_size, found.micro_batch_size) == want


@pytest.mark.parametrize(
    ("width", "want"), [(2048, 5e-4), (128, 4.3e-3), (384, 1.8e-3), (4096, 2.9e-4), (8192, 1.7e-4)]
)
def test_a_wider_model_learns_in_smaller_steps(width: int, want: float) -> None:
    assert resolve(spec(), Facts(width, None), 100).training.learning_rate == want
    assert resolve(spec(learningRate=0.01), Facts(width, None), 100).training.learning_rate == 0.01


@pytest.mark.parametrize(
    ("examples", "width", "method", "want"),
    [
        (64, 128, {}, 1),
        (64, 384, {}, 4),
        (200, 768, {}, 8),
        (64, 8192, {}, 16),
        (64, 32, {}, 1),
        (201, 128, {}, 16),
        (None, 128, {}, 16),
        (64, 128, {"lora": {}}, 16),
        (64, 128, {"lora": {"rank": 32}}, 32),
        (64, 128, {"initFrom": "s3://adapters/before"}, 16),
    ],
    ids=[
        "few examples and a narrow base",
        "few examples and a small base",
        "few examples and one of usual width",
        "few examples and a wide base",
        "never none",
        "more examples",
        "nothing is known of the data",
        "settings that are given, though empty",
        "a rank that is given",
        "an adapter to continue from",
    ],
)
def test_few_examples_train_few_parameters(examples: int | None, width: int, method: dict[str, Any], want: int) -> None:
    said = spec()
    said = said.model_copy(update={"method": MethodSpec.model_validate({"type": "LoRA", **method})})
    resolved = resolve(said, Facts(width, None), examples)
    settings = resolved.method.settings
    assert isinstance(settings, LoRAMethod)
    assert settings.rank == want == told_of(resolved, torch.float32).rank
    assert settings.alpha == (32 if method else 2 * want)


def test_only_lora_gets_a_rank_by_the_data() -> None:
    assert resolve(spec("IA3"), Facts(128, None), 64).method == spec("IA3").method
    assert told_of(resolve(spec("IA3"), WIDE, 64), torch.float32).rank is None
    assert told_of(resolve(spec("AdaLoRA"), WIDE, 64), torch.float32).rank == 8


def test_preferences_are_learned_in_far_smaller_steps() -> None:
    said = spec()
    preferring = said.model_copy(update={"task": TaskSpec(type="PreferenceOptimisation")})
    assert resolve(preferring, WIDE, 100).training.learning_rate == 1e-5


def test_a_text_s_vector_is_where_the_model_has_it() -> None:
    ranking = spec().model_copy(update={"task": TaskSpec(type="Ranking")})
    for pooling in ("Mean", "LastToken"):
        found = resolve(ranking, Facts(2048, None, pooling), 100).task.ranking
        assert found is not None
        assert found.pooling == pooling
    said = ranking.model_copy(update={"task": TaskSpec(type="Ranking", ranking=RankingTask(pooling="Mean"))})
    assert resolve(said, Facts(2048, None, "LastToken"), 100).task == said.task


def test_every_method_has_a_learning_rate() -> None:
    for method in get_args(MethodSpec.model_fields["type"].annotation):
        assert 0 < resolve(spec(method), WIDE, 100).training.learning_rate < 1


def test_what_is_said_stays() -> None:
    said = spec(batchSize=48, learningRate=0.01, epochs=2, weightDecay=0.1, evaluation=None, seed=7)
    found = resolve(said, WIDE, 10)
    assert found.to_wire() == said.to_wire()


def test_examples_are_no_longer_than_the_model_takes() -> None:
    assert fit_length(spec(), Facts(384, 512)).dataset.max_length == 512
    assert fit_length(spec(max_length=100), Facts(384, 512)).dataset.max_length == 100
    assert fit_length(spec(), Facts(384, None)).dataset.max_length == 1024
    assert fit_length(spec("PTuning"), Facts(384, 512)).dataset.max_length == 492


@pytest.mark.parametrize(
    ("kind", "settings", "limit", "want"),
    [
        ("llama", {"hidden_size": 96, "max_position_embeddings": 4096}, 10**30, Facts(96, 4096, "LastToken")),
        ("gpt2", {"n_embd": 48, "n_positions": 256}, 10**30, Facts(48, 256, "LastToken")),
        ("t5", {"d_model": 64}, 512, Facts(64, 512, "LastToken")),
        ("roberta", {"hidden_size": 32, "max_position_embeddings": 514}, 512, Facts(32, 512)),
    ],
    ids=["llama", "names of its own", "relative positions, a tokenizer with a limit", "positions kept for padding"],
)
def test_facts_of_models(tmp_path: Path, kind: str, settings: dict[str, Any], limit: int, want: Facts) -> None:
    AutoConfig.for_model(kind, **settings).save_pretrained(tmp_path)
    assert read_facts(tmp_path, SimpleNamespace(model_max_length=limit), "file:///model") == want


def test_the_status_tells_it() -> None:
    told = told_of(resolve(spec(), WIDE, 64), torch.bfloat16).to_wire()
    assert json.loads(json.dumps(told)) == {
        "method": "LoRA",
        "precision": "BF16",
        "maxLength": 1024,
        "batchSize": 16,
        "microBatchSize": 8,
        "learningRate": 5e-4,
        "epochs": 75.0,
        "rank": 16,
    }
