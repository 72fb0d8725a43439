"""The loss of supervised tokens alone, in chunks, is that of all logits: by value and by gradient, on many decoders."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy as whole_cross_entropy

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from architectures import CAUSAL, LLAMA, Architecture  # noqa: E402 (after the path)
from decoders import DECODERS as DENSE_DECODERS  # noqa: E402
from decoders import MAMBA, make  # noqa: E402
from peftjob_trainer.data.types import IGNORED  # noqa: E402
from peftjob_trainer.tasks import cross_entropy  # noqa: E402
from transformers import BartConfig, BartForConditionalGeneration  # noqa: E402

DECODERS = [
    *DENSE_DECODERS,
    Architecture("gemma2, capped", CAUSAL, "gemma2", {**LLAMA, "head_dim": 12, "final_logit_softcapping": 2.0}),
    Architecture("granite, divided", CAUSAL, "granite", {**LLAMA, "logits_scaling": 3.0}),
    Architecture("cohere, multiplied", CAUSAL, "cohere", {**LLAMA, "logit_scale": 0.3}),
    MAMBA,
]
ROWS_AT_ONCE = 5
SUPERVISED = 7 + 6 + 4
TOLERANCE = 1e-6


def batch(model: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return inputs of three rows, of which two are padded, and labels."""
    torch.manual_seed(1)
    ids = torch.randint(3, 300, (3, 12))
    mask = torch.ones_like(ids)
    mask[1, 9:] = mask[2, 5:] = 0
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[0, :5] = labels[1, :3] = IGNORED
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    return {"inputs_embeds": embedded, "attention_mask": mask}, labels


def of_all_logits(model: Any) -> tuple[float, torch.Tensor]:
    """Return the loss and the gradient of the embedded tokens, by the logits of all tokens."""
    inputs, labels = batch(model)
    logits = model(**inputs).logits[:, :-1].float().flatten(0, 1)
    loss = whole_cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
    loss.backward()
    return float(loss.detach()), inputs["inputs_embeds"].grad


def ours(model: Any) -> tuple[float, torch.Tensor]:
    """Return the same by our way."""
    inputs, labels = batch(model)
    loss = cross_entropy.loss_sum(model, inputs, labels)
    loss.backward()
    return float(loss.detach()), inputs["inputs_embeds"].grad


def compare(model: Any) -> None:
    (loss, gradient), (want_loss, want_gradient) = ours(model), of_all_logits(model)
    assert loss == pytest.approx(want_loss, rel=TOLERANCE)
    assert float((gradient - want_gradient).abs().max()) <= TOLERANCE * float(want_gradient.abs().max())
    assert float(want_gradient.abs().max()) > 0


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks of a few rows; return how many rows each call of a layer as wide as the vocabulary gets."""
    monkeypatch.setitem(cross_entropy.CHUNK_BYTES, "cpu", 4 * 301 * ROWS_AT_ONCE)
    seen: list[int] = []
    forward = torch.nn.Linear.forward

    def counting(self: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
        if self.out_features == 301:
            seen.append(states.shape[:-1].numel())
        return forward(self, states)

    monkeypatch.setattr(torch.nn.Linear, "forward", counting)
    return seen


@pytest.mark.parametrize("architecture", DECODERS, ids=lambda a: a.name)
def test_chunks_give_the_loss_and_gradient_of_all_logits(architecture: Architecture, rows: list[int]) -> None:
    model = make(architecture)
    compare(model)
    assert rows[:-1] == [5, 5, 5, 2], "only supervised tokens, and few at once"
    compare(model)  # by what was found the first time


def test_a_trained_head_gets_the_supervised_tokens_at_once(rows: list[int]) -> None:
    model = make(DECODERS[0])
    model.lm_head.weight.requires_grad_()
    compare(model)
    assert rows[0] == SUPERVISED
    by_us, model.lm_head.weight.grad = model.lm_head.weight.grad.clone(), None
    ours(model)
    theirs = by_us - model.lm_head.weight.grad
    assert torch.allclose(model.lm_head.weight.grad, theirs, atol=1e-6)
    assert theirs.abs().max() > 0.1


def test_what_no_config_tells_is_found_out(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a model that does something of its own with its logits would be trained on another loss."""
    model = make(DECODERS[-4])
    monkeypatch.setattr(cross_entropy, "after_head", lambda config: lambda logits: logits)
    compare(model)
    assert rows[-2] == SUPERVISED


def test_an_encoder_decoder_with_a_bias_after_its_head(rows: list[int]) -> None:
    """As translation models of Marian have one that is not zero."""
    sizes = {"vocab_size": 301, "d_model": 40, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    torch.manual_seed(0)
    model = BartForConditionalGeneration(BartConfig(**sizes, **heads)).requires_grad_(False).eval()
    model.final_logits_bias.normal_()
    source, target = torch.randint(3, 301, (2, 3, 9))
    inputs = {"input_ids": source, "decoder_input_ids": target}
    loss = cross_entropy.loss_sum(model, inputs, target)
    assert rows == [5, 5, 5, 5, 4], "only supervised tokens, and few at once"
    logits = model(**inputs).logits[:, :-1].flatten(0, 1)
    assert float(loss) == pytest.approx(float(whole_cross_entropy(logits, target[:, 1:].flatten(), reduction="sum")))


def test_a_head_that_is_not_the_models_last_layer_is_left_alone(rows: list[int]) -> None:
    model = make(DECODERS[0])
    model.get_output_embeddings = lambda: torch.nn.Linear(40, 301)
    compare(model)
    assert rows[-2:] == [36, 36]


def test_a_batch_without_supervised_tokens_has_a_gradient_of_zero() -> None:
    model = make(DECODERS[0])
    inputs, labels = batch(model)
    loss = cross_entropy.loss_sum(model, inputs, torch.full_like(labels, IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(inputs["inputs_embeds"].grad, torch.zeros_like(inputs["inputs_embeds"]))


def test_an_evaluation_makes_no_gradient() -> None:
    model = make(DECODERS[0])
    with torch.no_grad():
        inputs, labels = batch(model)
        loss = cross_entropy.loss_sum(model, inputs, labels)
    assert not loss.requires_grad
    assert float(loss) == pytest.approx(of_all_logits(model)[0], rel=TOLERANCE)
