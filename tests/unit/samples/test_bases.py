"""The small bases, at a size for tests: made once, named by their recipe, loaded by transformers."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import bases, imaging, predict
from samples.package_text import is_prose
from samples.pretrain_decoder import batches, exercises
from samples.recipes import RECIPES, quick

LOADED = {
    "tiny-decoder": "AutoModelForCausalLM",
    "tiny-translator": "AutoModelForSeq2SeqLM",
    "tiny-vision": "AutoModelForImageClassification",
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every base."""
    cache = tmp_path_factory.mktemp("bases")
    return {name: bases.base_folder(name, is_quick=True, cache=cache) for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_a_base_is_loaded_whole(name: str, folders: dict[str, Path]) -> None:
    import transformers

    model, info = getattr(transformers, LOADED[name]).from_pretrained(folders[name], output_loading_info=True)
    new = {key for key in info["missing_keys"] if not key.startswith("classifier.")}
    assert (new, set(info["unexpected_keys"])) == (set(), set())
    assert model.num_parameters() < 200_000


def test_a_base_is_made_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "pretrain", lambda *_: pytest.fail("made again"))
    for name, folder in folders.items():
        assert bases.base_folder(name, is_quick=True, cache=folder.parent) == folder
    assert {path.name for path in next(iter(folders.values())).parent.iterdir()} == {
        folder.name for folder in folders.values()
    }


def test_a_base_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("no memory")

    monkeypatch.setattr(bases, "pretrain", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        bases.base_folder("tiny-decoder", is_quick=True, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_tells_recipes_apart() -> None:
    recipe = RECIPES["tiny-decoder"]
    changed: list[dict[str, Any]] = [{"steps": 1}, {"config": {}}, {"seed": 2}, {"packages": ("numpy",)}]
    names = {bases.digest(recipe), bases.digest(quick(recipe)), *(bases.digest(replace(recipe, **c)) for c in changed)}
    assert len(names) == 2 + len(changed)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [bases.rate(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.01


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The function returns the number of rows, which is at least the number of its columns.", True),
        ("too short.", False),
        ("A line that has no full stop at its end is a heading, or the beginning of something", False),
        ("Return x_1 + y_2 * (z_3 - 4) / 5 for w[6] >= 7 and v[8] != 9, as f(x_1, y_2) would do it.", False),
    ],
    ids=["sentences", "too short", "a heading", "formulas"],
)
def test_only_prose_is_learned(text: str, want: bool) -> None:
    assert is_prose(text) is want


def test_exercises_can_be_solved_by_what_stands_before() -> None:
    drill = exercises(["map", "tree", "root", "sum"], seed=1)
    for _ in range(20):
        listed, again = next(drill).split("\n")
        assert listed == again
        given, asked = next(drill).split("\n")
        assert sorted(given.split("; ")) == sorted(asked.split("; "))
    first, second = (next(exercises(["map", "tree", "root", "sum"], seed)) for seed in (1, 2))
    assert first != second


def test_half_of_the_decoders_rows_are_exercises(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folders["tiny-decoder"])
    recipe = replace(quick(RECIPES["tiny-decoder"]), length=48)
    texts = ["The sum of the map is the root of the tree, which is the sum of its parts."] * 20
    batch = next(batches(tokenizer, texts, recipe))
    assert batch["input_ids"].shape == (recipe.batch, recipe.length)
    prose = [text in tokenizer.decode(row) for row in batch["input_ids"] for text in ["which is the sum"]]
    assert prose == [True] * (recipe.batch // 2) + [False] * (recipe.batch // 2)


def test_a_new_translator_copies() -> None:
    from samples.pretrain_translator import begin_copying
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(1)
    ids = torch.randint(3, 286, (4, 60))
    config = BartConfig(vocab_size=286, pad_token_id=0, decoder_start_token_id=0, **RECIPES["tiny-translator"].config)
    model = BartForConditionalGeneration(config).eval()

    def copied() -> float:
        with torch.no_grad():
            return float((model(input_ids=ids, labels=ids).logits.argmax(-1) == ids).float().mean())

    assert copied() < 0.1
    begin_copying(model)
    assert copied() > 0.8


def test_words_are_changed_by_chance() -> None:
    from samples.translator_exercises import reworded

    text = " ".join(["harbour"] * 40)
    told = reworded(text, ["lantern", "meadow"], random.Random(1))
    kept = told.split().count("harbour")
    assert 20 < kept < 40
    assert told == reworded(text, ["lantern", "meadow"], random.Random(1))


def test_letters_are_accented_throughout() -> None:
    from samples.translator_exercises import ACCENTED, respelled

    text = "Anna, a banana! " * 2
    told = respelled(text, random.Random(4))
    spelled = dict(zip(text, told, strict=True))
    assert told == "".join(spelled[letter] for letter in text)
    changed = {letter for letter, other in spelled.items() if letter != other}
    assert {letter.lower() for letter in changed} <= {"a", "n", "b"}
    assert changed
    assert {spelled[letter].lower() for letter in changed} <= set(ACCENTED)
    assert all(spelled[letter].isupper() == letter.isupper() for letter in changed)


def test_sources_are_translated(folders: dict[str, Path]) -> None:
    sources = ["Save", "Please correct the errors below."]
    said = predict.generated(folders["tiny-translator"], None, sources)
    assert said == [predict.generated(folders["tiny-translator"], None, [source])[0] for source in sources]


def test_a_classifier_that_nobody_trained_answers_by_labels(folders: dict[str, Path]) -> None:
    labels = ["no", "yes"]
    images = [imaging.png(np.full((8, 8), brightness)) for brightness in range(0, 16, 2)]
    said = predict.seen(folders["tiny-vision"], None, images, labels)
    assert len(said) == len(images)
    assert set(said) <= set(labels)
    assert said == predict.seen(folders["tiny-vision"], None, images, labels), "the same each time"


def test_prompts_and_chats_are_continued(folders: dict[str, Path]) -> None:
    chat = [{"role": "user", "content": "Hello"}]
    prompt = "User: Hello\nAssistant:"
    asked: list[Any] = [chat, prompt, "Once upon a time there was a much longer prompt than that"]
    said = predict.generated(folders["tiny-decoder"], None, asked)
    assert said[0] == said[1], "the template of chats"
    assert said[1] == predict.generated(folders["tiny-decoder"], None, [prompt])[0], "padding changes nothing"


def test_a_word_of_a_dialect_is_the_same_other_word_in_every_text() -> None:
    from samples.translator_exercises import DIALECT_WORDS, dialects_of

    words = [f"{first}{second}ol" for first in "abcdefghijklm" for second in "nopqrstuvwxyz"]
    one, other = dialects_of(words, random.Random(1))[:2]
    assert len(one.words) == DIALECT_WORDS
    assert one.words != other.words
    own = 0
    for seed in range(50):
        read, told = one.pair("field stone river cloud", random.Random(seed))
        assert read.startswith(one.tag)
        said = read.removeprefix(one.tag).split()
        assert told == " ".join(one.words.get(word) or word.translate(one.letters) for word in said)
        own += sum(word in one.words for word in said)
    assert 0.3 < own / (50 * 4) < 0.5
