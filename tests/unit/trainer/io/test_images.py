"""Images of a data set: where they may be, what is made of them, and each way in which they can be wrong."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.task_spec import AugmentationSpec
from peftjob_testkit.rows import lines, parquet
from peftjob_trainer.data import Picture, Splits, load_splits
from peftjob_trainer.data.pictures import decode
from peftjob_trainer.data_report import describe
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.tasks import task_of
from peftjob_trainer.tasks.image_classification import augmented
from PIL import Image
from transformers import ViTImageProcessor

SEE: dict[str, Any] = {"type": "ImageClassification"}
Load = Callable[..., Splits]


def png(color: Any = (10, 20, 30), size: tuple[int, int] = (8, 6), mode: str = "RGB", kind: str = "PNG") -> bytes:
    """Return an image file of one colour."""
    data = io.BytesIO()
    Image.new(mode, size, color).save(data, kind)
    return data.getvalue()


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8))


def noise() -> bytes:
    """Return an image file that no format makes small."""
    data = io.BytesIO()
    NOISE.save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def processor() -> ViTImageProcessor:
    """Makes images of 32 x 32 pixels."""
    return ViTImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture
def load(spec: Callable[..., PeftJobSpec], processor: Any, tmp_path: Path) -> Load:
    """Return what writes files, by name, and loads `train.*` or the folder `train`."""

    def loading(files: dict[str, bytes], train: str, *, task: Any = SEE, **dataset: Any) -> Splits:
        for name, body in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(body)
        job = spec(f"file://{tmp_path}/{train}", task=task, **dataset)
        return load_splits(job, processor, job.storage, tmp_path / "work")

    return loading


def labelled(splits: Splits) -> list[tuple[str, str]]:
    """Return the last part of where each image is, and its label."""
    assert splits.labels is not None
    found = splits.train.examples
    assert all(isinstance(each, Picture) for each in found)
    return [(each.where.rpartition("/")[2], splits.labels[each.label]) for each in found]  # type: ignore[attr-defined]


def test_the_report_says_which_image_has_which_label(
    load: Load, spec: Callable[..., PeftJobSpec], processor: Any
) -> None:
    splits = load({"train/cat/1.png": png(), "train/dog/1.png": png()}, "train", format="ImageFolder")
    (report,) = describe(task_of(spec(task=SEE), 0, splits.labels, processor), splits)
    assert report.labels == {"cat": 1, "dog": 1}
    shown = report.samples[0]
    assert (shown.parts[0][0].endswith("train/cat/1.png"), shown.answer) == (True, "cat")


def test_paths_beside_a_table(load: Load, tmp_path: Path) -> None:
    table = b"image,label\ncats/1.png,cat\ndogs/1.png,dog\n"
    splits = load({"train.csv": table, "cats/1.png": png(), "dogs/1.png": png()}, "train.csv")
    assert labelled(splits) == [("train.csv line 2", "cat"), ("train.csv line 3", "dog")]
    assert splits.train.examples[0].file == tmp_path / "cats/1.png"  # type: ignore[attr-defined]
    assert splits.train.examples[0].length == 4  # of 16 x 16 pixels


@pytest.mark.parametrize("wrapped", [False, True], ids=["bytes", "bytes and path"])
def test_bytes_in_a_table(load: Load, tmp_path: Path, wrapped: bool) -> None:
    found = [png((n, 0, 0)) for n in range(2)]
    column = [{"bytes": each, "path": "x.png"} for each in found] if wrapped else found
    splits = load({"train.parquet": parquet(tmp_path / "made", image=column, label=[3, 10])}, "train.parquet")
    assert [each.file for each in splits.train.examples] == found  # type: ignore[attr-defined]
    assert splits.labels == ["3", "10"]


def test_a_folder_for_each_label_is_read_one_of_each_in_turn(load: Load) -> None:
    names = ["b/1.png", "a/2.PNG", "a/1.png", "more/b/2.png", "a/3.png"]
    others = {"train/README.md": b"words", "train/a/.hidden.png": b"", "train/a/Thumbs.db": b""}
    splits = load({f"train/{name}": png() for name in names} | others, "train", format="ImageFolder")
    assert labelled(splits) == [("1.png", "a"), ("1.png", "b"), ("2.PNG", "a"), ("2.png", "b"), ("3.png", "a")]


@pytest.mark.parametrize(
    ("image", "want"),
    [
        (Image.new("RGB", (2, 3), (1, 2, 3)), (1, 2, 3)),
        (Image.new("L", (2, 3), 7), (7, 7, 7)),
        (Image.new("LA", (2, 3), (7, 0)), (7, 7, 7)),
        (Image.fromarray(np.full((3, 2), 0x80FF, np.uint16)), (128, 128, 128)),
        (Image.new("P", (2, 3)), (0, 0, 0)),
        (Image.new("1", (2, 3), 1), (255, 255, 255)),
    ],
    ids=["colours", "grey", "transparent grey", "grey of 16 bits", "a palette", "black or white"],
)
def test_every_kind_of_image_becomes_one_of_colours(image: Any, want: tuple[int, int, int]) -> None:
    data = io.BytesIO()
    image.save(data, "PNG")
    found = decode(data.getvalue(), "here")
    assert (found.mode, found.size, found.getpixel((1, 2))) == ("RGB", (2, 3), want)


def test_an_image_is_turned_as_its_camera_was_held(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (4, 2)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert decode(tmp_path / "a.jpg", "here").size == (2, 4)


TWO = {"a/1.png": png(), "b/1.png": png()}
GOOD = ({"image": "a/1.png", "label": "a"}, {"image": "b/1.png", "label": "b"})


@pytest.mark.parametrize(
    ("row", "files", "want", "want_in_message"),
    [
        ({"image": "b/2.png", "label": "b"}, {}, Reason.DATASET_MALFORMED, ("there is no image 'b/2.png'", "copy it")),
        (
            {"image": "b/2.png", "label": "b"},
            {"b/2.png": noise()[:2000]},
            Reason.DATASET_MALFORMED,
            ("the image 2.png", "cannot be decoded", "save it again as PNG or JPEG, or remove it"),
        ),
        (
            {"image": "b/2.jpg", "label": "b"},
            {"b/2.jpg": png(size=(64, 64), kind="JPEG")[:-200]},
            Reason.DATASET_MALFORMED,
            ("the image 2.jpg", "cannot be decoded"),
        ),
        (
            {"image": "b/2.png", "label": "b"},
            {"b/2.png": b"%PDF-1.7"},
            Reason.DATASET_MALFORMED,
            ("(8 bytes)", "it is no PNG, JPEG"),
        ),
        ({"image": "", "label": "b"}, {}, Reason.DATASET_MALFORMED, ("column 'image' is empty", "write a path")),
        ({"image": 7, "label": "b"}, {}, Reason.DATASET_MALFORMED, ("column 'image' holds a JSON number",)),
        ({"image": "../1.png", "label": "b"}, {}, Reason.DATASET_MALFORMED, ("'../1.png'", "relative to the file")),
        ({"image": "/etc/1.png", "label": "b"}, {}, Reason.DATASET_MALFORMED, ("relative to the file",)),
        ({"image": "a/1.png", "label": None}, {}, Reason.DATASET_MALFORMED, ("'label' holds a JSON null",)),
        ({"image": "a/1.png"}, {}, Reason.DATASET_COLUMN_MISSING, ("'label'", "spec.dataset.columns.label")),
        ({"label": "a"}, {}, Reason.DATASET_COLUMN_MISSING, ("'image'", "spec.dataset.columns.image")),
    ],
    ids=[
        "no such image", "a PNG that ends too early", "a JPEG that ends too early", "no image", "an empty path",
        "a number", "a path out of the folder", "a path from the root", "no label", "a row without its label",
        "a row without its image",
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_the_fix(
    load: Load, row: Any, files: dict[str, bytes], want: Reason, want_in_message: tuple[str, ...]
) -> None:
    with pytest.raises(TrainerError) as error:
        load({"train.jsonl": lines(*GOOD, row), **TWO, **files}, "train.jsonl")
    assert error.value.reason is want
    said = error.value.message
    assert [part for part in ("train.jsonl line 3", *want_in_message) if part not in said] == [], said


@pytest.mark.parametrize(
    ("files", "settings", "want", "want_in_message"),
    [
        ({"train/1.png": png()}, {}, Reason.DATASET_MALFORMED, ("/train/1.png", "in no sub-folder", "move it")),
        ({"train/README.md": b""}, {}, Reason.DATASET_EMPTY, ("/train/**: it has no rows",)),
        ({"train/a/1.png": png()}, {}, Reason.DATASET_MALFORMED, ("/train/**", "label 'a'", "needs two")),
        (
            {"train/a/1.png": png(), "train/b/1.png": png(), "test/c/9.png": png()},
            {"test": "test"},
            Reason.UNKNOWN_LABEL,
            ("test/c/9.png", "'c'", "'a', 'b'", "spec.task.imageClassification.labels"),
        ),
        ({}, {}, Reason.DATASET_NOT_FOUND, ("/train/**: no file matches", "spec.dataset.train")),
    ],
    ids=["an image in no sub-folder", "no images", "a single label", "a label of the test data", "no folder"],
)
def test_a_bad_folder_is_named_with_the_fix(
    load: Load, tmp_path: Path, files: Any, settings: Any, want: Reason, want_in_message: tuple[str, ...]
) -> None:
    others = {split: f"file://{tmp_path}/{name}" for split, name in settings.items()}
    with pytest.raises(TrainerError) as error:
        load(files, "train", format="ImageFolder", **others)
    assert error.value.reason is want, error.value.message
    assert [part for part in want_in_message if part not in error.value.message] == [], error.value.message


def test_bad_images_are_skipped_when_asked_for(load: Load) -> None:
    files = {f"train/{label}/{name}.png": png() for label in "ab" for name in "12"} | {"train/a/2.png": b"words"}
    splits = load(files, "train", format="ImageFolder", onBadRow="Skip", maxSamples=3)
    assert labelled(splits) == [("1.png", "a"), ("1.png", "b")]
    assert splits.train.skipped.count == 1
    assert "train/a/2.png: the image 2.png (5 bytes) cannot be decoded" in splits.train.skipped.reasons[0]


def test_a_label_that_the_task_does_not_list(load: Load) -> None:
    with pytest.raises(TrainerError, match=r"train.jsonl line 2: unknown label 'b'; the labels are 'a', 'c'"):
        load(
            {"train.jsonl": lines(*GOOD), **TWO},
            "train.jsonl",
            task={**SEE, "imageClassification": {"labels": ["a", "c"]}},
        )


def test_an_image_is_varied_by_its_draw_alone() -> None:
    settings = AugmentationSpec(min_crop_area=0.5, horizontal_flip=True)
    torch.manual_seed(5)
    first = augmented(NOISE, settings, (1, 2, 3))
    state = torch.random.get_rng_state()
    torch.manual_seed(6)
    assert augmented(NOISE, settings, (1, 2, 3)).tobytes() == first.tobytes()
    torch.manual_seed(5)
    assert torch.equal(torch.random.get_rng_state(), state), "the numbers of others are left alone"
    others = {augmented(NOISE, settings, draw).tobytes() for draw in ((2, 2, 3), (1, 3, 3), (1, 2, 4))}
    assert len(others - {first.tobytes()}) == 3


def test_a_crop_keeps_as_much_as_it_is_told_to() -> None:
    sizes = [augmented(NOISE, AugmentationSpec(min_crop_area=0.6), (0, 0, index)).size for index in range(200)]
    shares = [width * height / (60 * 40) for width, height in sizes]
    assert 0.58 < min(shares) < 0.65
    assert 0.95 < max(shares) <= 1


def test_half_of_the_images_are_mirrored() -> None:
    settings = AugmentationSpec(min_crop_area=1, horizontal_flip=True)
    mirrored = [augmented(NOISE, settings, (0, 0, index)).tobytes() != NOISE.tobytes() for index in range(200)]
    assert 70 < sum(mirrored) < 130
    assert augmented(NOISE, AugmentationSpec(min_crop_area=1), (0, 0, 0)).tobytes() == NOISE.tobytes()


def test_evaluations_see_images_as_they_are(spec: Callable[..., PeftJobSpec], processor: Any) -> None:
    task = task_of(spec(task=SEE), 0, ["a", "b"], processor)
    sample = Picture(noise(), 1, "here", 4)
    batch = task.collate([sample, sample, task.varied(sample, (0, 0, 0))])
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert batch["labels"].tolist() == [1, 1, 1]
    assert torch.equal(batch["pixel_values"][0], processor(NOISE, return_tensors="pt")["pixel_values"][0])
    assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][1])
    assert not torch.equal(batch["pixel_values"][0], batch["pixel_values"][2])
