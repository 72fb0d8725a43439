"""A small ViT that tells Latin letters apart, of matplotlib's fonts. Called by `bases`.

Digits are not among them. Each letter is turned, slanted, moved and blurred at random, and goes through a picture of 8
pixels' width as the images of the sample do. Only the encoder is saved.
"""

import importlib.metadata
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from transformers import PretrainedConfig, ViTConfig, ViTForImageClassification, ViTImageProcessor

from .recipes import Recipe

LETTERS: Final = "".join(c for c in string.ascii_uppercase + string.ascii_lowercase if c not in "OolI")
"""Without those in which one sees a zero or a one."""
DRAWN = 40
"""Pixels of a side of the drawing."""
SMALL = 8


class Encoder(torch.nn.Module):
    """A classifier of which the encoder is saved."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.whole = ViTForImageClassification(config)

    def forward(self, **batch: torch.Tensor) -> Any:
        """Return the output of the whole model."""
        return self.whole(**batch)

    def save_pretrained(self, folder: Path) -> None:
        """Save the encoder."""
        self.whole.vit.save_pretrained(folder)


def prepare(recipe: Recipe, folder: Path) -> tuple[Any, Iterator[dict[str, torch.Tensor]]]:
    """Write the image processor; return a model and its batches: `pixel_values` (batch, 3, size, size), `labels`."""
    config = ViTConfig(num_labels=len(LETTERS), **recipe.config)
    size = {"height": config.image_size, "width": config.image_size}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return Encoder(config), batches(recipe, config.image_size)


def batches(recipe: Recipe, size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield pictures of random letters in random fonts, normalised as the processor does."""
    chance = random.Random(recipe.seed)
    fonts = [ImageFont.truetype(path, DRAWN * 3 // 5) for path in font_files(recipe.packages)]
    while True:
        labels = [chance.randrange(len(LETTERS)) for _ in range(recipe.batch)]
        grey = np.stack([picture(chance, LETTERS[label], chance.choice(fonts), size) for label in labels])
        pixels = torch.from_numpy(grey).float() / 127.5 - 1
        yield {"pixel_values": pixels[:, None].repeat(1, 3, 1, 1), "labels": torch.tensor(labels)}


def font_files(packages: tuple[str, ...]) -> list[str]:
    """Return the DejaVu fonts, which have all letters."""
    files = sorted(str(file.locate()) for package in packages for file in importlib.metadata.files(package) or [])
    return [path for path in files if Path(path).name.startswith("DejaVuS") and "Display" not in path]


def picture(chance: random.Random, letter: str, font: Any, size: int) -> Any:
    """Return a white letter on black, uint8 (size, size)."""
    drawing = Image.new("L", (DRAWN, DRAWN))
    ImageDraw.Draw(drawing).text((DRAWN / 2, DRAWN / 2), letter, 255, font, anchor="mm")
    near = [chance.uniform(-0.3, 0.3) for _ in range(2)]
    zoom = [chance.uniform(0.5, 0.95) for _ in range(2)]
    moved = [chance.uniform(-3, 3) + DRAWN / 2 * (1 - z - n) for z, n in zip(zoom, near, strict=True)]
    matrix = (zoom[0], near[0], moved[0], near[1], zoom[1], moved[1])
    drawing = drawing.transform(drawing.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    tiny = drawing.resize((SMALL, SMALL), Image.Resampling.BOX)
    return np.asarray(tiny.resize((size, size), Image.Resampling.BICUBIC))
