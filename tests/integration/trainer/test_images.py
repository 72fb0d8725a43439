"""Images on S3: in folders, and beside a table that names them."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.spec import StorageSpec
from peftjob_trainer.data import load_splits
from peftjob_trainer.data.files import fetch_split
from peftjob_trainer.exits import TrainerError
from PIL import Image
from transformers import ViTImageProcessor

Put = Callable[[str, bytes], None]


def png(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (8, 8), shade).save(data, "PNG")
    return data.getvalue()


def spec(storage: StorageSpec, **dataset: str) -> PeftJobSpec:
    return PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "file:///models/vit"},
            "task": {"type": "ImageClassification"},
            "dataset": dataset,
            "storage": storage.to_wire(),
            "output": {"uri": "file:///out"},
        }
    )


def labels_seen(job: PeftJobSpec, work: Path) -> list[tuple[str, bytes]]:
    """Return the label and the bytes of each image of the training data, as a rank reads it after the launcher."""
    fetch_split(job, "train", job.storage, work / "train")
    splits = load_splits(job, ViTImageProcessor(size={"height": 8, "width": 8}), job.storage, work)
    assert splits.labels is not None
    return [(splits.labels[each.label], each.file.read_bytes()) for each in splits.train.examples]  # type: ignore[attr-defined]


def test_folders(put: Put, storage: StorageSpec, tmp_path: Path) -> None:
    for name, body in (("a/1.png", png(1)), ("x/b/2.png", png(2)), ("b/notes.txt", b"words")):
        put(f"s3://datasets/folders/{name}", body)
    job = spec(storage, train="s3://datasets/folders/", format="ImageFolder")
    assert labels_seen(job, tmp_path) == [("a", png(1)), ("b", png(2))]


def test_images_beside_a_table(put: Put, storage: StorageSpec, tmp_path: Path) -> None:
    put("s3://datasets/beside/train.csv", b"image,label\na/1.png,x\nb/1.png,y\na/1.png,x\n")
    for number, name in enumerate(("a/1.png", "b/1.png", "c/1.png")):
        put(f"s3://datasets/beside/{name}", png(number))
    job = spec(storage, train="s3://datasets/beside/train.csv")
    assert labels_seen(job, tmp_path) == [("x", png(0)), ("y", png(1)), ("x", png(0))]
    assert not list(tmp_path.glob("train/*/c")), "only what is named is copied"


@pytest.mark.parametrize(
    ("train", "format_", "want", "want_in_message"),
    [
        ("lost/train.csv", "Auto", Reason.DATASET_MALFORMED, ("lost/train.csv line 3", "there is no image '2.png'")),
        (
            "nowhere",
            "ImageFolder",
            Reason.DATASET_NOT_FOUND,
            ("s3://datasets/nowhere/**", "no object of bucket 'datasets' matches"),
        ),
    ],
    ids=["an image that a table names", "a folder"],
)
def test_what_is_not_there_is_named(
    put: Put,
    storage: StorageSpec,
    tmp_path: Path,
    train: str,
    format_: str,
    want: Reason,
    want_in_message: tuple[str, ...],
) -> None:
    put("s3://datasets/lost/train.csv", b"image,label\n1.png,x\n2.png,y\n")
    put("s3://datasets/lost/1.png", png(1))
    with pytest.raises(TrainerError) as error:
        labels_seen(spec(storage, train=f"s3://datasets/{train}", format=format_), tmp_path)
    assert error.value.reason is want
    assert [part for part in want_in_message if part not in error.value.message] == [], error.value.message
