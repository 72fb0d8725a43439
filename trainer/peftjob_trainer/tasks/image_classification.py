"""One label for each image, by a new head that is trained whole."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from peftjob_api.task_spec import AugmentationSpec, ImageClassificationTask
from PIL import ImageOps
from transformers import AutoModelForImageClassification

from ..data import Picture
from ..data.pictures import blank, decode, processed
from ..sharding.skeleton import Skeletons
from .common import Batch
from .sequence_classification import SequenceClassification, named, with_head
from .shown import Shown

_RATIOS: Final = (3 / 4, 4 / 3)
"""Of the sides of a crop to those of its image, as most recipes have them."""
_THREADS: Final = 8
"""That decode: PIL lets others work meanwhile."""


class ImageClassification(SequenceClassification):
    """Loss and metrics are those of texts with one label; for the interface see `Task`."""

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data, and the name of its head; for errors see `with_head`."""
        assert self.labels is not None
        return with_head(base, AutoModelForImageClassification, **named(self.labels))

    def varied(self, sample: Picture, draw: tuple[int, int, int]) -> Picture:
        """Return the image, to be cut and mirrored anew."""
        return replace(sample, draw=draw)

    def collate(self, samples: Sequence[Picture]) -> Batch:
        """Return `pixel_values`, fp32 (rows, channels, height, width), and `labels`, int64 (rows).

        Raises:
            TrainerError: `DATASET_MALFORMED`: an image has changed since it was looked at, and cannot be decoded.
        """
        with ThreadPoolExecutor(min(_THREADS, len(samples))) as pool:
            images = list(pool.map(lambda sample: decode(sample.file, sample.where), samples))
        settings = (self.spec.task.image_classification or ImageClassificationTask()).augmentation
        seen = [
            image if sample.draw is None else augmented(image, settings, sample.draw)
            for image, sample in zip(images, samples, strict=True)
        ]
        return {"pixel_values": processed(seen, self.tokenizer), "labels": torch.tensor(self.truth(samples))}

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """Return what the head gives, fp32 (rows, classes)."""
        return model(pixel_values=batch["pixel_values"]).logits.float()

    def truth(self, samples: Sequence[Picture]) -> list[int]:
        """Return the classes."""
        return [sample.label for sample in samples]

    def shown(self, sample: Picture) -> Shown:
        """Return where the image is, and the label."""
        return Shown(((sample.where, False),), self._answer(sample))

    def largest(self, samples: Sequence[Any] | None, limit: int) -> Picture:
        """Return any image: the processor makes all of one size."""
        if samples is not None:
            return samples[0]
        file = io.BytesIO()
        blank().save(file, "PNG")
        return Picture(file.getvalue(), 0, "", 1)


def augmented(image: Any, settings: AugmentationSpec, draw: tuple[int, int, int]) -> Any:
    """Return an image cut and mirrored at random, by nothing but the numbers of the draw.

    The crop is not enlarged here: the base's processor brings it to the size that the base reads.
    """
    from torchvision.transforms.v2 import RandomResizedCrop

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(draw).generate_state(1, np.uint64)[0]))
        mirrors = settings.horizontal_flip and bool(torch.rand(()) < 0.5)
        if settings.min_crop_area < 1:
            shape = image.width / image.height
            ratios = (shape * _RATIOS[0], shape * _RATIOS[1])
            crop = RandomResizedCrop(1, scale=(settings.min_crop_area, 1.0), ratio=ratios).make_params([image])
            top, left, height, width = (crop[side] for side in ("top", "left", "height", "width"))
            image = image.crop((left, top, left + width, top + height))
    return ImageOps.mirror(image) if mirrors else image
