"""What a model on sharded ranks writes in evaluations is what it writes unsharded, and costs what the plan says."""

from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from peftjob_api import PeftJob


def job_of(runs: Path, name: str) -> Any:
    import json

    return PeftJob.model_validate(json.loads((runs / "cases.json").read_text())[name]).spec


def unsharded(spec: Any, adapter: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """Return the model with what was trained, by plain transformers and peft, and its tokenizer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    base = Path(spec.base_model.uri.removeprefix("file://"))
    auto, kind = {
        "CausalLM": (AutoModelForCausalLM, "CAUSAL_LM"),
        "Seq2SeqLM": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
    }[spec.task.type]
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type=kind)
    model = get_peft_model(auto.from_pretrained(base), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(adapter[name])
    return model, AutoTokenizer.from_pretrained(base)


def written_alone(spec: Any, model: Any, tokenizer: Any) -> list[list[int]]:
    """Return what the model writes for each prompt, one at a time, so that nothing is padded."""
    import json

    path = Path(spec.dataset.validation.removeprefix("file://"))
    found = []
    for line in path.read_text().splitlines()[: spec.training.evaluation.generate.max_samples]:
        row = json.loads(line)
        ids = tokenizer(row["source" if "source" in row else "prompt"], return_tensors="pt").input_ids
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=spec.training.evaluation.generate.max_new_tokens,
        )[0]
        found.append(output[1 if "source" in row else ids.shape[1] :].tolist())
    return found


# peft 0.21 asks transformers 5.23 by a name that the latter deprecates.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", cases.WRITTEN)
def test_sharded_ranks_write_what_the_unsharded_model_writes(name: str, runs: Path, one: Any, two: Any) -> None:
    spec = job_of(runs, name)
    alone = written_alone(spec, *unsharded(spec, two[0][name]["adapter"]))
    assert two[0][name]["written"]["ids"] == two[1][name]["written"]["ids"] == alone
    # By its own adapter: the steps of this base amplify rounding, and one after many of them is published.
    assert one[name]["written"]["ids"] == written_alone(spec, *unsharded(spec, one[name]["adapter"]))
    assert len({tuple(ids) for ids in alone}) > 3, "they differ"
    lengths = {len(ids) for ids in alone}
    assert (len(lengths) > 2) == (name == cases.UNEQUAL)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", cases.WRITTEN)
def test_writing_gathers_what_the_plan_says(name: str, runs: Path, two: Any) -> None:
    from peftjob_trainer.planning.estimate import Inputs, estimate

    spec = job_of(runs, name)
    plan = estimate(spec, Inputs(Path(spec.base_model.uri.removeprefix("file://")), 0, torch.float32)).writing
    assert plan is not None
    results = [result[name]["written"] for result in two]
    for result in results:
        measured = sum(size for (call, _), size in result["calls"].items() if call.startswith("all_gather"))
        steps = result["steps"]
        assert len(steps) == plan.batches
        assert measured == pytest.approx(plan.batches * plan.per_batch + sum(steps) * plan.per_token, rel=0.02)
        assert measured == pytest.approx(result["gathered"], rel=0.02)
        if name == cases.UNEQUAL:
            assert max(steps) <= plan.tokens
            assert measured <= plan.gathered, "at most: a batch may end early"
        else:
            assert measured == pytest.approx(plan.gathered, rel=0.1)


@pytest.mark.parametrize("name", cases.WRITTEN)
def test_what_is_written_is_judged_alike_on_all_ranks(name: str, two: Any) -> None:
    metrics = [[record["metrics"] for record in result[name]["evaluations"]] for result in two]
    assert metrics[0] == metrics[1]
    assert {"loss", "perplexity", "chrF", "bleu", "rougeL", "exactMatch"} == set(metrics[0][0])
