"""Says how many tests ran at each level, from pytest's JUnit files; the last line of `make test`.

Usage: summary.py REPORTS_FOLDER
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

LEVELS = ("unit", "numerics", "integration", "e2e")


def count(path: Path) -> tuple[int, int, int]:
    """Return (passed, failed, skipped) of one JUnit file, which pytest of this same run wrote."""
    tests = failed = skipped = 0
    for suite in ET.parse(path).iter("testsuite"):
        tests += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return tests - failed - skipped, failed, skipped


def main(folder: Path) -> int:
    """Print a line per level and the sum; return 1 when a level is missing, empty or red."""
    total = [0, 0, 0]
    red = False
    for level in LEVELS:
        path = folder / f"{level}.xml"
        if not path.exists():
            print(f"{level}: did not run")
            red = True
            continue
        counts = count(path)
        total = [a + b for a, b in zip(total, counts, strict=True)]
        red = red or counts[1] > 0 or counts[0] == 0
        print(f"{level}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped")
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
