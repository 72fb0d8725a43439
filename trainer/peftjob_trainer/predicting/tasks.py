"""What predicts for each kind of task, a row of the table each. Used by `predict`."""

from typing import Final

import torch

from .classifiers import Classifier, ImageClassifier, MultiLabelClassifier, Regressor, Tagger
from .inputs import Inputs
from .loading import Loaded
from .predictor import Answer, Predictor, Settings
from .rankers import Embedder
from .writers import Generator, Translator

PREDICTORS: Final[dict[str, type[Predictor]]] = {
    "CausalLM": Generator,
    "PreferenceOptimisation": Generator,
    "Seq2SeqLM": Translator,
    "SequenceClassification": Classifier,
    "SequenceClassification/MultiLabel": MultiLabelClassifier,
    "SequenceClassification/Regression": Regressor,
    "TokenClassification": Tagger,
    "TokenClassification/Plain": Tagger,
    "ImageClassification": ImageClassifier,
    "Ranking": Embedder,
}
"""`TaskSpec.kind` -> its predictor."""


@torch.no_grad()
def predict(loaded: Loaded, inputs: Inputs, settings: Settings) -> list[Answer]:
    """Return the answers, in the order of the inputs, which are computed in batches of like length.

    Raises:
        TrainerError: `DATASET_MALFORMED`: an input that cannot be encoded.
    """
    predictor = PREDICTORS[loaded.usage.kind](loaded, settings)
    encoded = [predictor.encode(inputs.kind, value) for value in inputs.values]
    order = sorted(range(len(encoded)), key=lambda number: len(encoded[number].ids))
    answers: list[Answer] = [{}] * len(encoded)
    torch.manual_seed(settings.seed)
    for at in range(0, len(order), settings.batch_size):
        chosen = order[at : at + settings.batch_size]
        for number, answer in zip(chosen, predictor.answer([encoded[n] for n in chosen]), strict=True):
            answers[number] = answer
    return answers
