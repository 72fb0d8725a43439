"""What counts as said by a test that the documentation names."""

from pathlib import Path

import pytest
from peftjob_testkit.evidence import evidence, own_words

ROWS = "".join(f'    Case("case {n}", reason="Reason{n}"),\n' for n in range(50))
MODULE = f"""
LIMIT = 7
CASES = [
{ROWS}]
def helper(found):
    assert found == "through a helper"
@pytest.mark.parametrize("case", CASES)
def test_each_case(case):
    helper(case)
def test_some_thing():
    assert LIMIT and "Failed"
"""


@pytest.mark.parametrize(
    ("name", "want", "want_not"),
    [
        ("some thing", ["LIMIT = 7", "Failed"], ["helper", "Reason1"]),
        ("case 3", ["Reason3", "test_each_case", "through a helper"], ["Reason4", "Failed"]),
        ("each case", ["through a helper"], ["Reason3"]),
    ],
    ids=["a function and what it uses", "a case and what is asserted of it", "a function, but no table of cases"],
)
def test_what_a_test_says(name: str, want: list[str], want_not: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text(MODULE)
    found = evidence(tmp_path / "test_module.py", name)
    assert found is not None
    assert [part for part in want if part not in found] == []
    assert [part for part in want_not if part in found] == []


def test_a_case_alone(tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text(MODULE)
    assert own_words(tmp_path / "test_module.py", "case 3") == '    Case("case 3", reason="Reason3"),'
    assert own_words(tmp_path / "test_module.py", "case 51") is None


def test_a_test_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text(MODULE)
    for name in ("helper", "case 51", "no such thing"):
        assert evidence(tmp_path / "test_module.py", name) is None
