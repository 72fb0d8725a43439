"""The samples' data: the same each time, no row of the test file known before, and a baseline that can be beaten."""

import io
from pathlib import Path
from typing import Any

import pytest
from samples import banking, catalogues, chatbot, imaging, retail, translation
from samples.kit import SPLITS, Sample, read_jsonl
from samples.uses import JOBS, SAMPLES, runnable

EVERY = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
WANT_BASELINE = {
    "sentiment": ("logistic regression on n-grams", 0.62, 0.72),
    "translation-regional": ("copy of the source", 70.0, 80.0),
    "translation-low-resource": ("copy of the source", 52.0, 60.0),
    "chatbot": ("nearest chat", 0.15, 0.4),
    "style": ("nearest brief", 75.0, 90.0),
    "imaging": ("logistic regression", 0.8, 0.92),
    "banking": ("nearest question", 0.3, 0.5),
    "recommendation": ("bought together", 0.4, 0.6),
}
"""The best baseline of each, and where its score lies: data that is changed without notice shows here."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The data of every sample."""
    made = {}
    for name, sample in SAMPLES.items():
        made[name] = tmp_path_factory.mktemp(name)
        sample.write(made[name])
    return made


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return read_jsonl(folder / f"{split}.jsonl")


@EVERY
def test_data_is_the_same_each_time(sample: Sample, folders: dict[str, Path], tmp_path: Path) -> None:
    sample.write(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert {Path(name).stem for name in names} >= set(SPLITS)
    for name in names:
        assert (tmp_path / name).read_bytes() == (folders[sample.name] / name).read_bytes(), name


@EVERY
def test_the_best_baseline_can_be_beaten(sample: Sample, folders: dict[str, Path]) -> None:
    want, low, high = WANT_BASELINE[sample.name]
    name, score = sample.best_baseline(folders[sample.name])
    assert name == want
    assert low < score < high


@EVERY
def test_right_answers_have_the_highest_score(sample: Sample, folders: dict[str, Path]) -> None:
    answers = sample.answers(folders[sample.name])
    said = [[answer] for answer in answers] if sample.metric == "recall@10" else answers
    assert sample.score(said, answers) == pytest.approx(100 if sample.metric == "chrF" else 1)
    assert len(sample.questions(folders[sample.name])) == len(answers) >= 130


@pytest.mark.parametrize("name", ["banking", "chatbot", "style"])
def test_no_row_is_in_two_files(name: str, folders: dict[str, Path]) -> None:
    found = {split: {str(row) for row in rows(folders[name], split)} for split in SPLITS}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]


def test_the_bank_holds_combinations_out_but_nothing_of_them() -> None:
    found = banking.combinations()
    train = set(found["train"])
    assert not train & {*found["test"], *found["validation"]}
    for product, intent, dialect in found["test"]:
        assert any((product, intent) == known[:2] for known in train)
        assert any((product, dialect) == (known[0], known[2]) for known in train)
        assert any((intent, dialect) == known[1:] for known in train)


def test_half_of_the_banks_test_is_held_out(folders: dict[str, Path]) -> None:
    known = {row["completion"] for row in rows(folders["banking"], "train")}
    unknown = sum(row["completion"] not in known for row in rows(folders["banking"], "test"))
    assert unknown == 4 * len(banking.combinations()["test"])


def test_half_of_the_chatbots_last_answers_were_never_given(folders: dict[str, Path]) -> None:
    def said(split: str) -> list[str]:
        return [turn["content"] for row in rows(folders["chatbot"], split) for turn in row["messages"][3::2]]

    last = [row["messages"][-1]["content"] for row in rows(folders["chatbot"], "test")]
    assert 0.4 < sum(answer not in set(said("train")) for answer in last) / len(last) < 0.6
    assert chatbot.fact("tower", "open") in chatbot.QUESTIONS["open"][2]


@pytest.mark.parametrize(("name", "pair"), translation.PAIRS.items(), ids=list(translation.PAIRS))
def test_no_string_that_is_translated_was_learned(name: str, pair: tuple[str, str], folders: dict[str, Path]) -> None:
    for side in ("source", "target"):
        found = {split: {catalogues.normalised(row[side]) for row in rows(folders[name], split)} for split in SPLITS}
        assert not found["train"] & found["test"]
        assert not found["train"] & found["validation"]
    assert not set(pair) & {language for family in families() for language in family}


def test_more_rows_are_made_of_those_to_learn_from_alone() -> None:
    long = "x" * catalogues.MAX_CHARACTERS
    own = [{"source": "ficheiro", "target": "arquivo"}, {"source": "sim", "target": "sim"}]
    found = translation.enlarged([*own, {"source": long, "target": long}])
    assert found[:2] == own
    assert found[3] == {"source": "arquivo", "target": "arquivo"}, "what is its own translation has that row"
    joined = found[4:]
    assert joined
    for row in joined:
        pairs = zip(row["source"].split(), row["target"].split(), strict=True)
        assert all({"source": left, "target": right} in own for left, right in pairs)


def test_no_letter_of_a_translation_is_new_to_its_base(folders: dict[str, Path]) -> None:
    from samples.translator_exercises import ACCENTED

    read = {language: catalogues.catalogue(language).values() for family in families() for language in family}
    known = {letter for texts in read.values() for text in texts for letter in text.lower()}
    assert not {"ã", "õ"} & known  # those are practised, but not read
    for name in translation.PAIRS:
        told = {letter for row in rows(folders[name], "test") for letter in (row["source"] + row["target"]).lower()}
        assert {letter for letter in told if letter.isalpha()} <= known | set(ACCENTED)


def families() -> tuple[tuple[str, ...], ...]:
    """Return what the base of the translations learns."""
    from samples.pretrain_translator import FAMILIES

    return FAMILIES


def test_late_items_are_sold_in_the_other_files_only(folders: dict[str, Path]) -> None:
    late = retail.late_items()
    assert len(late) == 60
    train = {title for row in rows(folders["recommendation"], "train") for title in row["query"].split(", ")}
    train |= {row["item"] for row in rows(folders["recommendation"], "train")}
    assert not late & train
    test = [row["item"] in late for row in rows(folders["recommendation"], "test")]
    assert sum(test) == len(test) / 2
    shop = {row["item"] for row in rows(folders["recommendation"], "items")}
    assert late < shop
    assert train < shop
    assert sorted(retail.PARTNERS.values()) == sorted(retail.THINGS)


def test_images_are_pictures_and_in_one_file(folders: dict[str, Path]) -> None:
    from PIL import Image

    found = {split: imaging.read(folders["imaging"], split) for split in SPLITS}
    assert {split: len(columns["label"]) for split, columns in found.items()} == imaging.ROWS
    assert set(found["train"]["label"]) == set("0123456789")
    image = Image.open(io.BytesIO(found["test"]["image"][0]))
    assert (image.format, image.size) == ("PNG", (imaging.SIZE, imaging.SIZE))
    known = {*found["train"]["image"], *found["validation"]["image"]}
    assert not known & set(found["test"]["image"])


def test_samples_with_a_job_are_files() -> None:
    assert {"sentiment", "chatbot", "style", "banking"} <= set(runnable())
    assert all((JOBS / f"{name}.yaml").is_file() for name in runnable())
