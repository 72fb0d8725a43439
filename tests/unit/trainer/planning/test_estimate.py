"""What a job is estimated to need, against numbers worked out by hand; and what a run without data sees."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peftjob_api import PeftJobSpec
from peftjob_api.metrics import METRICS
from peftjob_trainer.data import Example, Split, Splits
from peftjob_trainer.data.types import IGNORED
from peftjob_trainer.planning import dry_run
from peftjob_trainer.planning.demand import Demand
from peftjob_trainer.planning.dry_run import Batch
from peftjob_trainer.planning.estimate import Inputs, estimate, largest_batches
from peftjob_trainer.planning.memory import LAUNCHER, host_memory, share_of
from peftjob_trainer.planning.meter import Meter, Resident, fake_mode
from peftjob_trainer.processors import load_image_processor
from peftjob_trainer.tasks import cross_entropy
from transformers import AutoConfig, ViTImageProcessor

WIDTH, INNER, WORDS, LAYERS, RANK = 8, 12, 50, 2, 4
SIZES = {
    "vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
}  # fmt: skip
LAYER = 4 * WIDTH * WIDTH + 3 * WIDTH * INNER + 2 * WIDTH
"""Parameters of a block of Llama: attention, MLP, two norms."""
ADAPTER = RANK * (4 * 2 * WIDTH + 3 * (WIDTH + INNER))
"""Parameters of LoRA in one: A and B for four square modules and three of the MLP."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="peft")  # of experts without adapters
        yield


def config(folder: Path, model_type: str = "llama", **settings: Any) -> Path:
    extra = {"num_key_value_heads": 2} if model_type != "bert" else {}
    AutoConfig.for_model(model_type, **{**SIZES, **extra, **settings}).save_pretrained(folder)
    return folder


def spec(
    kind: str = "CausalLM", dataset: dict[str, Any] | None = None, *, on_cpu: bool = False, **training: Any
) -> PeftJobSpec:
    return PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "file:///model"},
            "task": {"type": kind},
            "method": {"type": "LoRA", "lora": {"rank": RANK}},
            "dataset": {"train": "file:///train.jsonl", "maxLength": 16, **(dataset or {})},
            "training": {"precision": "FP32", "batchSize": 4, **training},
            "workers": {"processesPerNode": 1} if on_cpu else {"gpusPerNode": 1},
            "output": {"uri": "file:///out"},
        }
    )


def demand_of(folder: Path, job: PeftJobSpec, splits: Splits | None = None) -> Demand:
    return estimate(job, Inputs(folder, 0, torch.float32, splits))


def batches_of(job: PeftJobSpec, splits: Splits | None) -> tuple[Batch, Batch | None]:
    return largest_batches(job, splits, Inputs(Path(), 0, torch.float32, splits).task(job))


def test_a_llama_by_hand(tmp_path: Path) -> None:
    found = demand_of(config(tmp_path, tie_word_embeddings=False), spec())
    assert found.base_parameters == LAYERS * LAYER + 2 * WORDS * WIDTH + WIDTH
    assert found.base_bytes == 4 * found.base_parameters
    assert found.trained == LAYERS * ADAPTER
    assert found.on(3).trained == 16 * LAYERS * ADAPTER
    # Of three ranks: ceil of each parameter. 64 -> 22, 96 -> 32, 8 -> 3, 400 -> 134.
    assert found.on(3).base - found.buffers == 4 * (LAYERS * (4 * 22 + 3 * 32 + 2 * 3) + 2 * 134 + 3)


def test_a_tied_head_is_there_once(tmp_path: Path) -> None:
    found = demand_of(config(tmp_path, tie_word_embeddings=True), spec())
    assert found.base_parameters == LAYERS * LAYER + WORDS * WIDTH + WIDTH


def test_bf16_halves_the_base_and_not_what_is_trained(tmp_path: Path) -> None:
    folder = config(tmp_path, tie_word_embeddings=False)
    whole, half = demand_of(folder, spec()), demand_of(folder, spec(precision="BF16"))
    assert half.base_bytes * 2 == whole.base_bytes
    assert half.on(1).trained == whole.on(1).trained


def test_a_classifier_trains_its_head_in_fp32(tmp_path: Path) -> None:
    found = demand_of(config(tmp_path, "bert"), spec("SequenceClassification", precision="BF16"))
    head = 2 * WIDTH + 2
    assert (2 * WIDTH, 4) in found.base  # the one that peft keeps beside it
    adapters = LAYERS * RANK * (4 * 2 * WIDTH + 2 * (WIDTH + INNER)) + RANK * 2 * WIDTH  # blocks and pooler
    assert found.trained == head + adapters


def t5(folder: Path) -> Path:
    sizes = {"vocab_size": WORDS, "d_model": WIDTH, "d_ff": INNER, "num_layers": LAYERS, "num_heads": 2, "d_kv": 4}
    AutoConfig.for_model("t5", **sizes, decoder_start_token_id=0).save_pretrained(folder)
    return folder


def test_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    found = demand_of(t5(tmp_path), spec("Seq2SeqLM"))
    attention, mlp, buckets = 4 * WIDTH * WIDTH, 2 * WIDTH * INNER, 32 * 2
    blocks = LAYERS * (attention + mlp + 2 * WIDTH) + LAYERS * (2 * attention + mlp + 3 * WIDTH)
    assert found.base_parameters == WORDS * WIDTH + blocks + 2 * (WIDTH + buckets)
    assert not found.is_rough


def vit(folder: Path, **settings: Any) -> Path:
    """Write config and image processor of a base of images of 32 x 32 pixels."""
    sizes = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    AutoConfig.for_model("vit", **sizes, image_size=32, patch_size=4, **settings).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def images(folder: Path, job: PeftJobSpec) -> Demand:
    return estimate(job, Inputs(folder, 0, torch.float32, processor=load_image_processor(folder, "file:///model")))


def test_images_are_told_from_the_processor_alone(tmp_path: Path) -> None:
    found = images(vit(tmp_path), spec("ImageClassification", microBatchSize=2))
    patches = 8 * 8 + 1
    embedding = 3 * 4 * 4 * WIDTH + WIDTH + WIDTH + patches * WIDTH
    layer = 4 * (WIDTH * WIDTH + WIDTH) + 2 * WIDTH * INNER + WIDTH + INNER + 4 * WIDTH
    head = 2 * WIDTH + 2
    assert found.base_parameters == embedding + LAYERS * layer + 2 * WIDTH + head  # the one that peft keeps beside it
    assert found.trained == LAYERS * RANK * (4 * 2 * WIDTH + 2 * (WIDTH + INNER)) + head
    assert not found.is_rough


def test_the_pixels_of_a_batch_are_in_the_plan(tmp_path: Path) -> None:
    folder = vit(tmp_path, num_channels=3)
    few, many = (images(folder, spec("ImageClassification", microBatchSize=rows)).whole for rows in (1, 4))
    pixels, states = 3 * 32 * 32 * 4, 65 * WIDTH * 4
    assert many - few > 3 * (pixels + LAYERS * states)


@pytest.mark.parametrize("kind", [kind for kind in METRICS if "Classification" in kind and "Image" not in kind])
def test_each_head_runs_without_data(tmp_path: Path, kind: str) -> None:
    task, _, variant = kind.partition("/")
    job = spec(task).to_wire()
    settings = {"SequenceClassification": {"problem": variant}, "TokenClassification": {"scheme": variant}}
    job["task"] |= {f"{task[0].lower()}{task[1:]}": settings[task]} if variant else {}
    assert not demand_of(config(tmp_path, "bert"), PeftJobSpec.model_validate(job)).is_rough


def test_two_answers_are_twice_the_rows_and_the_reference_keeps_nothing(tmp_path: Path) -> None:
    folder = config(tmp_path, num_hidden_layers=6, vocab_size=20)
    both = demand_of(folder, spec("PreferenceOptimisation", microBatchSize=2))
    assert not both.is_rough
    assert both.whole == pytest.approx(demand_of(folder, spec(microBatchSize=4)).whole, rel=0.05)
    assert both.trained == demand_of(folder, spec()).trained


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_queries_and_items_are_computed_together(tmp_path: Path, kind: str) -> None:
    folder = config(tmp_path, kind, num_hidden_layers=6)
    one, two = (demand_of(folder, spec("Ranking", microBatchSize=rows)) for rows in (1, 2))
    assert not two.is_rough
    assert two.whole == pytest.approx(2 * one.whole, rel=0.1)


WRITES: dict[str, Any] = {"evaluation": {"generate": {"maxNewTokens": 10, "maxSamples": 7}}}
VALIDATED = {"validation": "file:///v.jsonl"}


def test_writing_gathers_the_base_for_each_token(tmp_path: Path) -> None:
    job = spec(dataset=VALIDATED, microBatchSize=2, **WRITES)
    cost = demand_of(config(tmp_path, tie_word_embeddings=False), job).writing
    assert cost is not None
    assert (cost.batches, cost.tokens) == (4, 10)
    assert cost.per_token == 4 * (LAYERS * LAYER + 2 * WORDS * WIDTH + WIDTH)
    assert cost.gathered == 40 * cost.per_token
    assert demand_of(tmp_path, spec(dataset=VALIDATED)).writing is None


def test_an_encoder_is_gathered_once_for_a_batch(tmp_path: Path) -> None:
    cost = demand_of(t5(tmp_path), spec("Seq2SeqLM", VALIDATED, **WRITES)).writing
    assert cost is not None
    attention, mlp, buckets, words = 4 * WIDTH * WIDTH, 2 * WIDTH * INNER, 32 * 2, WORDS * WIDTH
    assert cost.per_batch == 4 * (words + LAYERS * (attention + mlp + 2 * WIDTH) + buckets + WIDTH)
    # The embedding is the head as well, and is gathered for each.
    assert cost.per_token == 4 * (2 * words + LAYERS * (2 * attention + mlp + 3 * WIDTH) + buckets + WIDTH)
    assert cost.gathered == 2 * (cost.per_batch + 10 * cost.per_token)


def test_what_was_written_is_kept_in_memory_as_keys_and_values(tmp_path: Path) -> None:
    folder = config(tmp_path, vocab_size=8, num_hidden_layers=6)
    generate = {"maxNewTokens": 2048, "maxSamples": 2}
    job = spec(dataset=VALIDATED, microBatchSize=1, evaluation={"generate": generate})
    cache = 6 * 2 * WIDTH * 2064 * 4
    assert demand_of(folder, job).whole > cache > demand_of(folder, spec(dataset=VALIDATED, microBatchSize=1)).whole


def test_the_best_adapter_is_kept_only_with_validation(tmp_path: Path) -> None:
    folder = config(tmp_path)
    validation = {"validation": "file:///v.jsonl"}
    assert demand_of(folder, spec(on_cpu=True)).copies == 0
    assert demand_of(folder, spec(dataset=validation, on_cpu=True)).copies == 1
    assert demand_of(folder, spec(dataset=validation)).copies == 0  # in the host's memory, not in the GPU's


def test_the_heap_of_a_cpu_wastes_as_much_again(tmp_path: Path) -> None:
    folder = config(tmp_path)
    assert demand_of(folder, spec(on_cpu=True)).whole == 2 * demand_of(folder, spec()).whole


def test_what_activations_depend_on(tmp_path: Path) -> None:
    folder = config(tmp_path, num_hidden_layers=6, vocab_size=20)
    plain = demand_of(folder, spec(microBatchSize=4)).whole
    assert demand_of(folder, spec(microBatchSize=2)).whole == pytest.approx(plain / 2, rel=0.05)
    assert demand_of(folder, spec(microBatchSize=4, gradientCheckpointing=True)).whole < 0.6 * plain
    longer = demand_of(folder, spec(microBatchSize=4, dataset={"maxLength": 64})).whole
    assert 4 * plain < longer < 8 * plain  # the mask grows with the square


def test_what_is_gathered_is_a_block_and_its_buffer(tmp_path: Path) -> None:
    folder = config(tmp_path, vocab_size=8, intermediate_size=4000)
    found = demand_of(folder, spec(microBatchSize=1, dataset={"maxLength": 4}))
    block = 4 * (4 * WIDTH * WIDTH + 3 * WIDTH * 4000 + 2 * WIDTH)
    assert found.on(2).gathered == pytest.approx(2 * block, rel=0.2)
    assert found.on(1).gathered == 0


def test_many_blocks_are_told_from_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config(tmp_path, num_hidden_layers=12)
    quick = demand_of(folder, spec())
    monkeypatch.setattr(dry_run, "_MANY", 12)
    whole = demand_of(folder, spec())
    assert quick == whole


@pytest.mark.parametrize(
    ("model_type", "checkpointing"), [("mixtral", False), ("qwen2_moe", True), ("gpt_neox", False), ("gemma2", True)]
)
def test_other_architectures_run_without_data(
    tmp_path: Path, model_type: str, checkpointing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = config(tmp_path, model_type, hidden_size=16, intermediate_size=16, moe_intermediate_size=16)
    found = demand_of(folder, spec(gradientCheckpointing=checkpointing, precision="BF16"))
    assert 0 < found.whole <= found.sharded
    assert caplog.messages == []


def test_a_model_that_does_not_run_without_data_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = config(tmp_path)
    exact = demand_of(folder, spec())

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("it looks at its numbers")

    monkeypatch.setattr(sys.modules[estimate.__module__], "peak_of", fails)
    guessed = demand_of(folder, spec())
    assert "it looks at its numbers" in caplog.text
    assert exact.whole / 4 < guessed.whole < 4 * exact.whole
    assert (exact.is_rough, guessed.is_rough) == (False, True)


def test_a_sum_of_tensors_alive_at_once() -> None:
    meter = Meter()
    with fake_mode(), meter:
        a = torch.empty(1000)
        b = a * 2  # 8000 bytes
        del a
        c = b.view(10, 100)  # no memory of its own
        d = c + 1  # 8000 again
        del b, c, d
        torch.empty(500)
    assert meter.whole.peak == 8000


def test_what_is_gathered_comes_through_a_buffer() -> None:
    meter = Meter()
    with fake_mode(), meter:
        a = torch.empty(100)
        meter.gather(1, [1000, 500])
        meter.gather(1, [1000, 500])
        meter.release(1)
        meter.gather(2, [2000])
        del a
    assert (meter.whole.peak, meter.sharded.peak) == (400, 3400)


def test_a_heap_keeps_what_was_its_most_and_more() -> None:
    found = Resident(waste=2.0, heap_below=100)
    found.add(50)
    found.remove(50)
    found.add(1000)
    found.remove(1000)
    found.add(20)
    assert found.peak == 1100


def test_integers_have_their_numbers_and_masks_choose_as_many_as_they_do() -> None:
    meter = Meter()
    labels = torch.tensor([1, IGNORED, 3, IGNORED])
    with fake_mode(), meter:
        hidden = torch.empty(4, 100)
        chosen = hidden[labels != IGNORED]
        places = (labels != IGNORED).nonzero()
        assert places.tolist() == [[0], [2]]
    assert chosen.shape == (2, 100)


def splits(train: list[Example], test: list[Example] | None = None) -> Splits:
    return Splits(Split("train", train, None), None, Split("test", test, None) if test else None, None)


def example(length: int, supervised: int) -> Example:
    return Example((5,) * length, (IGNORED,) * (length - supervised) + (5,) * supervised)


def test_the_largest_batch_is_as_long_as_the_longest_and_as_supervised_as_any() -> None:
    data = splits([example(9, 2), example(6, 5), example(3, 1)], [example(12, 1)] * 2)
    job = spec(dataset={"test": "file:///test.jsonl"}, microBatchSize=4)
    training, evaluation = batches_of(job, data)
    assert len(training.example.input_ids) == 9
    assert sum(label != IGNORED for label in training.example.labels) == 5  # type: ignore[union-attr]
    assert training.rows == 3  # no more than there are
    assert evaluation is not None
    assert (len(evaluation.example.input_ids), evaluation.rows) == (12, 2)


def test_packed_rows_are_those_of_the_longest_examples_of_a_batch() -> None:
    data = splits([example(length, 1) for length in (2, 3, 5, 4, 1, 1)])
    training, _ = batches_of(spec(dataset={"packing": True}, microBatchSize=4), data)
    assert (len(training.example.input_ids), training.rows) == (14, 1)  # 5 + 4 + 3 + 2, the four of a batch
    training, _ = batches_of(spec(dataset={"packing": True, "maxLength": 8}, microBatchSize=4), data)
    assert (len(training.example.input_ids), training.rows) == (7, 2)


def test_without_data_rows_are_full() -> None:
    training, evaluation = batches_of(spec(microBatchSize=2), None)
    assert (len(training.example.input_ids), training.rows, evaluation) == (16, 2, None)


def test_memory_is_the_least_of_the_limits() -> None:
    assert host_memory({"PEFTJOB_MEMORY_LIMIT": str(2**20)}) == 2**20
    assert host_memory({"PEFTJOB_MEMORY_LIMIT": str(2**60)}) < 2**60
    assert share_of(LAUNCHER + 100, 2) == 50
    assert share_of(1, 2) == 0


def test_chunks_of_the_loss_are_planned_as_large_as_the_device_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, job = config(tmp_path, vocab_size=5000), spec(dataset={"maxLength": 64}, gradientCheckpointing=True)
    found = {}
    for rows in (1, 64):
        monkeypatch.setitem(cross_entropy.CHUNK_BYTES, "cuda", 4 * 5000 * rows)
        monkeypatch.setitem(cross_entropy.CHUNK_BYTES, "cpu", 4 * 5000)
        found[rows] = demand_of(folder, job).whole
    assert found[64] - found[1] > 63 * 4 * 5000  # what is done with the scores of a row takes more than those alone
