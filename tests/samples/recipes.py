"""How each small base is pretrained, as data. Used by `bases`.

There are no pretrained weights to be had offline but for a sentence encoder, so the samples of other kinds of models
stand on bases that a CPU makes in some minutes, from what Python packages carry. They are no good models: they show
that a job works and learns. The same job with an `hf://` base is what a user would run.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal


@dataclass(frozen=True)
class Recipe:
    """One base."""

    kind: Literal["decoder", "encoder-decoder", "vision"]
    config: dict[str, Any]
    """Of the class in transformers: Llama, BART or ViT."""
    packages: tuple[str, ...]
    """Whose files it learns from; their versions are those of constraints.txt."""
    steps: int
    batch: int
    length: int = 0
    """Tokens of a row; images have none."""
    vocabulary: int = 0
    learning_rate: float = 2e-3
    """The highest; it rises over a twentieth of the steps and falls to zero by a cosine."""
    seed: int = 1


RECIPES: Final[dict[str, Recipe]] = {
    # English sentences from docstrings, and exercises on their words.
    "tiny-decoder": Recipe(
        kind="decoder",
        config={
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
        },
        packages=("scikit-learn", "networkx", "django", "scipy", "nltk", "matplotlib", "numpy"),
        steps=1600,
        batch=16,
        length=128,
        vocabulary=2048,
        learning_rate=3e-3,
    ),
    # Translated interface strings of languages that no sample is about.
    "tiny-translator": Recipe(
        kind="encoder-decoder",
        config={
            "d_model": 128,
            "encoder_ffn_dim": 384,
            "decoder_ffn_dim": 384,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "max_position_embeddings": 128,
            "dropout": 0.0,
        },
        packages=("django",),
        steps=12000,
        batch=24,
        length=128,
        vocabulary=258,  # bytes, padding and end
        learning_rate=1.5e-3,
    ),
    # Letters of fonts.
    "tiny-vision": Recipe(
        kind="vision",
        config={
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
        packages=("matplotlib",),
        steps=4000,
        batch=64,
        learning_rate=1e-3,
    ),
}


def quick(recipe: Recipe) -> Recipe:
    """Return the recipe at a size for tests: it shows that the code works, and learns nothing."""
    sizes = {
        "decoder": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        "encoder-decoder": {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 1},
        "vision": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    }
    config = {**recipe.config, **sizes[recipe.kind]}
    return replace(recipe, config=config, packages=recipe.packages[-1:], steps=3, batch=4, vocabulary=500)
