"""Which files the uris and patterns of a data set stand for, and in which order."""

from pathlib import Path

import pytest
from peftjob_api import Reason
from peftjob_api.spec import StorageSpec
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.storage import fetch_files
from peftjob_trainer.storage.datasets import all_here, matching

NAMES = ("b-2.csv", "b-10.csv", "a/b-1.csv", "a/c/b-3.csv", ".hidden.csv", "a/.b-4.csv", "b-2.csv.md5", "b+2.csv")


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("*.csv", ["b+2.csv", "b-10.csv", "b-2.csv"]),
        ("b-*.csv", ["b-10.csv", "b-2.csv"]),
        ("*/b-*.csv", ["a/b-1.csv"]),
        ("**/b-*.csv", ["a/b-1.csv", "a/c/b-3.csv", "b-10.csv", "b-2.csv"]),
        ("a/**", ["a/b-1.csv", "a/c/b-3.csv"]),
        ("b+*.csv", ["b+2.csv"]),
        ("*.parquet", []),
    ],
    ids=[
        "a part of a name",
        "in the order of the names, not of numbers in them",
        "one folder, and only one",
        "any folders, or none",
        "all below a folder",
        "other signs stand for themselves",
        "nothing",
    ],
)
def test_names_of_a_pattern(pattern: str, want: list[str]) -> None:
    assert matching(pattern, NAMES) == want


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "b-dir.csv").mkdir()
    return tmp_path


def names(folder: Path, *patterns: str) -> list[str]:
    uris = [f"file://{folder}/{pattern}" for pattern in patterns]
    found = fetch_files(uris, StorageSpec(), folder / "work")
    assert all(uri == f"file://{path}" for uri, path in found.items())
    return [path.relative_to(folder).as_posix() for path in found.values()]


def test_files_of_several_patterns_are_read_once_each_in_the_patterns_order(folder: Path) -> None:
    assert names(folder, "a/**/b-*.csv", "b-2.csv", "b-*.csv") == ["a/b-1.csv", "a/c/b-3.csv", "b-2.csv", "b-10.csv"]
    assert names(folder, "*/*/*.csv") == ["a/c/b-3.csv"]
    assert not (folder / "work").exists()


def test_a_pattern_that_nothing_matches_is_named(folder: Path) -> None:
    with pytest.raises(TrainerError, match=r"x-\*\.csv: no file matches") as error:
        names(folder, "b-2.csv", "x-*.csv")
    assert error.value.reason is Reason.DATASET_NOT_FOUND


def test_data_is_here_if_all_of_it_is(folder: Path) -> None:
    assert all_here([f"file://{folder}/*.csv", f"file://{folder}/a/b-1.csv"])
    assert not all_here([f"file://{folder}/*.csv", f"file://{folder}/*.parquet"])
    assert not all_here([f"file://{folder}/*.csv", "s3://bucket/a.csv"])
