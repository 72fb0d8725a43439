"""What the pages point at is there: files, headings, paths of this tree, commands, values; their PeftJobs are valid."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from peftjob_api import read_peftjob

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
FOLDERS = ("charts", "crds", "docs", "images", "operator", "tests", "trainer")
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
VALUES = yaml.safe_load((ROOT / "charts/peftjob-operator/values.yaml").read_text())


def anchor(heading: str) -> str:
    """Return the anchor of a heading as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if fragment:
            anchors = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)}
            assert fragment in anchors, target


@EVERY_PAGE
def test_paths_of_the_tree_exist(page: Path) -> None:
    found = re.findall(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./*-]*)", page.read_text())
    missing = [path for path in found if not any(ROOT.glob(path.rstrip("/.")))]
    assert missing == []


@EVERY_PAGE
def test_commands_are_the_makefiles(page: Path) -> None:
    text = page.read_text()
    lines = re.findall(r"^(make [a-z].*)$", text, re.MULTILINE) + re.findall(r"`(make [a-z][^`]*)`", text)
    words = {word for line in lines for word in line.partition("#")[0].split()[1:] if "=" not in word}
    assert words <= TARGETS


@EVERY_PAGE
def test_values_that_are_set_are_the_charts(page: Path) -> None:
    for name in re.findall(r"--set '?([\w.]+)=", page.read_text()):
        node: Any = VALUES
        *parents, last = name.split(".")
        for part in parents:
            node = node[part]
        if name != "operator.image.tagg":  # the example of a misspelt value
            assert last in node, name


@EVERY_PAGE
def test_whole_peftjobs_are_valid(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        if "\nkind: PeftJob\n" in block:
            read_peftjob(block)


def test_the_readme_shows_a_peftjob() -> None:
    assert "\nkind: PeftJob\n" in (ROOT / "README.md").read_text()
