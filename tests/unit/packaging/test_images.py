"""What the images copy is let through to their builder."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LET_THROUGH = re.findall(r"(?m)^!(.+)$", (ROOT / ".dockerignore").read_text())


@pytest.mark.parametrize("image", ["operator", "trainer"])
def test_all_that_an_image_copies_is_let_through(image: str) -> None:
    copied = re.findall(r"(?m)^COPY (?!--from)(\S+) ", (ROOT / "images" / image / "Dockerfile").read_text())
    assert copied
    assert [path for path in copied if path not in LET_THROUGH] == []
    assert all((ROOT / path).exists() for path in copied)
