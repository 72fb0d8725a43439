"""What each task counts, from predictions worked out by hand."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peftjob_api import PeftJobSpec
from peftjob_api.metrics import METRICS
from peftjob_trainer.data import IGNORED, Example, Match, Preference, SourceTarget
from peftjob_trainer.history import METRIC_KEYS, deciding_metric, is_better
from peftjob_trainer.tasks import Task, judge, task_of


def spec(kind: str, **training: Any) -> PeftJobSpec:
    task, _, variant = kind.partition("/")
    settings = {
        "SequenceClassification": {"sequenceClassification": {"problem": variant}},
        "TokenClassification": {"tokenClassification": {"scheme": variant}},
    }
    return PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "file:///models/tiny"},
            "task": {"type": task, **(settings[task] if variant else {})},
            "dataset": {"train": "file:///t.jsonl", "validation": "file:///v.jsonl"},
            "training": training,
            "output": {"uri": "file:///out"},
        }
    )


def task(kind: str, labels: Sequence[str] | None = None) -> Task:
    return task_of(spec(kind), 0, labels)


def samples(*labels: Any) -> list[Example]:
    return [Example((1, 2), each) for each in labels]


@pytest.mark.parametrize("kind", METRICS)
def test_the_first_metric_of_a_task_decides(kind: str) -> None:
    assert spec(kind).task.kind == kind
    assert deciding_metric(spec(kind)) == METRICS[kind][0]
    assert set(METRICS[kind]) <= METRIC_KEYS.keys()


def test_errors_are_better_when_low_and_all_else_when_high() -> None:
    assert {metric for metric in METRIC_KEYS if is_better(metric, 1.0, 2.0)} == {"Loss", "RMSE", "MAE"}


def test_any_labels() -> None:
    predicted = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    found = task("SequenceClassification/MultiLabel", ["a", "b", "c"]).metrics(
        0.5, predicted, samples((1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    assert found == pytest.approx({"loss": 0.5, "microF1": 4 / 6, "macroF1": (1 + 2 / 3 + 0) / 3, "accuracy": 1 / 3})


def test_numbers() -> None:
    predicted = torch.tensor([1.0, 2.0, 4.0])
    found = task("SequenceClassification/Regression").metrics(0.1, predicted, samples(1.0, 3.0, 8.0))
    want = {"loss": 0.1, "rmse": math.sqrt(17 / 3), "mae": 5 / 3, "spearman": 1.0}
    assert found == pytest.approx({**want, "pearson": found["pearson"]})
    assert found["pearson"] == pytest.approx(11 / math.sqrt(26 * 14 / 3))


def test_a_correlation_with_what_does_not_vary_beats_nothing() -> None:
    found = task("SequenceClassification/Regression").metrics(0.1, torch.ones(2), samples(1.0, 2.0))
    assert math.isnan(found["spearman"])
    assert not is_better("Spearman", found["spearman"], None)


TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def test_whole_names() -> None:
    truth = samples((IGNORED, 1, 2, 0), (3, 0))
    predicted = torch.tensor([[0, 1, 2, 3], [1, 0, 0, 0]])  # one of three that are found, of two that are there
    found = task("TokenClassification", TAGS).metrics(0.2, predicted, truth)
    assert found == pytest.approx({"loss": 0.2, "precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "accuracy": 3 / 5})


def test_a_model_that_finds_nothing() -> None:
    found = task("TokenClassification", TAGS).metrics(0.2, torch.zeros(1, 2), samples((1, 2)))
    assert found == {"loss": 0.2, "precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 0.0}


def test_words() -> None:
    predicted = torch.tensor([[0, 1, 1], [1, 0, 0]])
    truth = samples((0, IGNORED, 1), (0,))
    found = task("TokenClassification/Plain", ["NOUN", "VERB"]).metrics(0.2, predicted, truth)
    assert found == pytest.approx({"loss": 0.2, "accuracy": 2 / 3, "macroF1": 2 / 3})


def test_a_batch_to_keep_in_step_with_is_worth_nothing() -> None:
    class Model:
        def __call__(self, **_: Any) -> Any:
            return type("Outputs", (), {"logits": torch.ones(1, *self.shape, requires_grad=True)})

        shape: tuple[int, ...] = ()

    model = Model()
    for kind, labels, sample, shape in (
        ("SequenceClassification", ["a", "b"], Example((1,), 1), (2,)),
        ("SequenceClassification/MultiLabel", ["a", "b"], Example((1,), (0, 1)), (2,)),
        ("SequenceClassification/Regression", None, Example((1,), -100.0), (1,)),
        ("TokenClassification", TAGS, Example((1,), (1,)), (1, 5)),
    ):
        of, model.shape = task(kind, labels), shape
        batch = of.collate([sample])
        worth, nothing = of.loss_sum(model, batch)[0], of.loss_sum(model, of.silence(batch))[0]
        assert worth > 0, kind
        assert nothing == 0, kind
        nothing.backward()


class Halves:
    """A model of two tokens: with its adapter it says 1 with a chance of 3 in 4, without it of 1 in 2."""

    training = False

    def __init__(self) -> None:
        self.odds = torch.tensor(math.log(3.0), requires_grad=True)
        self.is_on = True

    def get_output_embeddings(self) -> None:
        return None

    def train(self, mode: bool) -> None:
        self.training = mode

    def eval(self) -> None:
        self.train(False)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.is_on = False
        yield
        self.is_on = True

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        assert self.is_on or not self.training
        logits = torch.zeros(*input_ids.shape, 2)
        logits = torch.stack([logits[..., 0], logits[..., 1] + (self.odds if self.is_on else 0.0)], -1)
        return type("Outputs", (), {"logits": logits})


def test_an_answer_that_is_preferred() -> None:
    of, model = task("PreferenceOptimisation"), Halves()
    model.train(True)
    pair = Preference(Example((0, 1, 1), (IGNORED, 1, 1)), Example((0, 0), (IGNORED, 0)))
    batch = of.collate([pair, pair])
    loss, rewards = of.loss_sum(model, batch)
    # beta is 0.1; the chosen answer is twice 3/2 as likely as by the reference, the rejected one half as likely.
    want = [0.1 * 2 * math.log(1.5), 0.1 * math.log(0.5)]
    assert rewards is not None
    assert rewards.tolist() == [pytest.approx(want)] * 2
    assert float(loss.detach()) == pytest.approx(2 * math.log(1 + math.exp(want[1] - want[0])))
    assert model.training
    loss.backward()
    assert float(model.odds.grad or 0) < 0, "it is to prefer it more"
    silent, _ = of.loss_sum(model, of.silence(batch))
    assert float(silent.detach()) == 0
    silent.backward()


def test_rewards() -> None:
    rewards = torch.tensor([[1.0, 0.5], [0.0, 0.5], [0.2, 0.2]])
    found = task("PreferenceOptimisation").metrics(0.3, rewards, samples(0, 0, 0))
    want = {"loss": 0.3, "accuracy": 1 / 3, "margin": 0.0, "chosenReward": 0.4, "rejectedReward": 0.4}
    assert found == pytest.approx(want, abs=1e-7)


def test_places_in_a_ranking() -> None:
    items = [(1,), (2,), (1,)]
    predicted = torch.tensor([[1.0, 0, 1, 0], [1.0, 0, 0, 1], [0.6, 0.8, 1, 0]])
    found = task("Ranking").metrics(0.3, predicted, [Match((9,), item) for item in items])
    want = {"loss": 0.3, "recallAt10": 1.0, "ndcgAt10": (1 + 2 / math.log2(3)) / 3, "mrr": 2 / 3}
    assert found == pytest.approx(want)


def test_a_model_that_finds_all_items_alike_has_ranked_none() -> None:
    samples = [Match((9,), (item,)) for item in range(20)]
    found = task("Ranking").metrics(0.3, torch.ones(20, 2), samples)
    assert found == pytest.approx({"loss": 0.3, "recallAt10": 0.0, "ndcgAt10": 0.0, "mrr": 1 / 20})


def test_negatives_are_of_the_group_and_never_the_item_once_more() -> None:
    of = task("Ranking")
    group = [Match((1,), (5,), ((6,),)), Match((2,), (6,)), Match((3,), (5,))]
    batch = of.collate_groups([group, [Match((4,), (7,), ((5,),))]])
    # Items: 5, 6, 5, 7 of the rows; negatives 6 of the first and 5 of the last.
    assert batch["input_ids"][:, 0].tolist() == [1, 2, 3, 4, 5, 6, 5, 7, 6, 5]
    assert batch["labels"].tolist() == [0, 1, 2, 3]
    assert batch["candidates"].int().tolist() == [
        [1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 1, 0],
        [0, 0, 0, 1, 0, 1],
    ]


def test_texts_as_wanted() -> None:
    texts = ["The cat sat on the mat.", "Ein Wort, zwei Worte."]
    assert judge([f" {text} " for text in texts], texts) == pytest.approx(
        {"chrF": 100, "bleu": 100, "rougeL": 1, "exactMatch": 1}
    )


def test_texts_of_any_script() -> None:
    found = judge(["кошка спит дома", ""], ["кошка не спит", "да"])
    # The longest common subsequence is two of three words.
    assert found["rougeL"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["exactMatch"] == 0
    assert 0 < found["chrF"] < 100


class Words:
    """A tokenizer that writes tokens as letters."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        return "".join(chr(96 + i) for i in ids if i != 1 or not skip_special_tokens)


@pytest.mark.parametrize(
    ("ids", "labels", "want"),
    [
        ((5, 6, 7, 8, 1), (IGNORED, IGNORED, 7, 8, 1), ((5, 6), "gh")),
        ((5, 7, 1, 6, 8, 9), (IGNORED, 7, 1, IGNORED, 8, 9), ((5, 7, 1, 6), "hi")),
        ((7, 8), (7, 8), ((7,), "gh")),
    ],
    ids=["a completion", "the last turn of a chat", "a prompt that was cut away"],
)
def test_prompts_of_texts(ids: tuple[int, ...], labels: tuple[int, ...], want: Any) -> None:
    of = task_of(spec("CausalLM"), 0, None, Words())
    assert of.prompt(Example(ids, labels)) == want


def test_a_decoder_is_given_each_token_of_the_target_but_asked_for_the_next() -> None:
    given: dict[str, torch.Tensor] = {}

    class Model:
        config = type("Config", (), {"decoder_start_token_id": 2})

        def get_output_embeddings(self) -> None:
            return None

        def __call__(self, **inputs: torch.Tensor) -> Any:
            given.update(inputs)
            logits = torch.zeros(2, inputs["decoder_input_ids"].shape[1], 10)
            return type("Outputs", (), {"logits": logits})

    of = task_of(spec("Seq2SeqLM"), 0, None)
    samples = [SourceTarget((5,), (6, 7, 1)), SourceTarget((5, 5), (8, 1))]
    loss, _ = of.loss_sum(Model(), of.collate(samples))
    assert given["decoder_input_ids"].tolist() == [[2, 6, 7, 1], [2, 8, 1, 0]]
    assert given["input_ids"].tolist() == [[5, 0], [5, 5]]
    assert float(loss) == pytest.approx(5 * math.log(10))
    assert sum(of.count(sample) for sample in samples) == 5
