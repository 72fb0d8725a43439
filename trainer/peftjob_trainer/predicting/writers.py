"""Predictors that write text: of language models, and of models that make one text of another."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from peftjob_api import Reason

from ..exits import TrainerError
from .predictor import Answer, Predictor, Question


class Writer(Predictor):
    """Writes until the end-of-sequence token, or `max_new_tokens`."""

    def write(self, batch: Sequence[Question], *, left: bool) -> list[list[int]]:
        """Return the tokens that the model gives back for each input."""
        settings = self.settings
        sampling = {"do_sample": True, "temperature": settings.temperature} if settings.temperature else {}
        found: list[list[int]] = self.loaded.model.generate(
            **self.padded(batch, left=left),
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=self.loaded.tokenizer.pad_token_id,
            **({"do_sample": False} | sampling),
        ).tolist()
        return found

    def read(self, tokens: list[int]) -> str:
        """Return a text of tokens."""
        return str(self.loaded.tokenizer.decode(tokens, skip_special_tokens=True))


class Generator(Writer):
    """Continues a prompt, or answers a chat."""

    auto_class = "AutoModelForCausalLM"
    parts = ("messages", "prompt", "text")

    def encode(self, kind: str, value: Any) -> Question:
        """Return the prompt as in training: the text alone, or in the chat template up to the answer."""
        tokenizer = self.loaded.tokenizer
        if kind == "text" and not self.loaded.usage.chat:
            ids = list(tokenizer(value, verbose=False)["input_ids"])
            # As in training: some tokenizers end every text.
            ends = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id != tokenizer.bos_token_id
            return Question(ids[:-1] if ends else ids)
        messages = value if kind == "messages" else [{"role": "user", "content": value}]
        while len(messages) > 1 and messages[-1]["role"] == "assistant":
            messages = messages[:-1]  # of data that was trained on: what is asked for
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError) as error:
            raise TrainerError(
                Reason.DATASET_MALFORMED, f"the tokenizer's chat template refuses an input: {error}"
            ) from error
        return Question(list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]))

    def answer(self, batch: Sequence[Question]) -> list[Answer]:
        """Return `completion` of each."""
        longest = max(len(question.ids or [0]) for question in batch)
        return [{"completion": self.read(ids[longest:])} for ids in self.write(batch, left=True)]


class Translator(Writer):
    """Makes a target of a source, by an encoder-decoder model."""

    auto_class = "AutoModelForSeq2SeqLM"
    parts = ("source", "text")

    def encode(self, kind: str, value: Any) -> Question:
        """Return the source as in training: after its prefix, cut."""
        prefix, longest = self.loaded.usage.settings.get("sourcePrefix") or "", self.loaded.usage.max_length
        return Question(list(self.loaded.tokenizer(prefix + value, truncation=True, max_length=longest)["input_ids"]))

    def answer(self, batch: Sequence[Question]) -> list[Answer]:
        """Return `target` of each."""
        return [{"target": self.read(ids)} for ids in self.write(batch, left=False)]
