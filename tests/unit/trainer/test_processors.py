"""Image processors: what is said of one that is not there, or that does not fit its base."""

from pathlib import Path

import pytest
from peftjob_api import PeftJobSpec, Reason
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.processors import load_processor, pad_of
from transformers import BertConfig, ViTConfig, ViTImageProcessor

SPEC = PeftJobSpec.model_validate(
    {
        "baseModel": {"uri": "s3://models/vit"},
        "task": {"type": "ImageClassification"},
        "dataset": {"train": "s3://datasets/train.parquet"},
        "output": {"uri": "s3://adapters/images"},
    }
)


def test_an_image_processor_has_nothing_to_pad_with(tmp_path: Path) -> None:
    ViTConfig(image_size=24).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(tmp_path)
    assert pad_of(load_processor(tmp_path, SPEC)) == 0


@pytest.mark.parametrize(
    ("size", "want"),
    [
        (None, ("s3://models/vit", "image processor", "preprocessor_config.json")),
        (32, ("s3://models/vit", "32 x 32 pixels", "image_size 24", "correct size or crop_size")),
    ],
    ids=["a model of texts", "another size"],
)
def test_a_base_that_does_not_read_images_as_they_are_made_is_refused(
    tmp_path: Path, size: int | None, want: tuple[str, ...]
) -> None:
    (ViTConfig(image_size=24) if size else BertConfig()).save_pretrained(tmp_path)
    if size:
        ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(tmp_path)
    with pytest.raises(TrainerError) as error:
        load_processor(tmp_path, SPEC)
    assert error.value.reason is Reason.INVALID_CONFIG
    assert [part for part in want if part not in error.value.message] == []
