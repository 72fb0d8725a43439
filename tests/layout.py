"""Checks of the tree itself, run by `make lint`: what no linter knows about this repository."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 500


def problems() -> list[str]:
    """Return one line for each broken rule."""
    found = [
        f"{folder}/__init__.py exists: a top-level package of that name would shadow the standard library's or be "
        f"importable by accident; importable packages are peftjob_*"
        for folder in ("operator", "trainer", "crds", "tests")
        if (ROOT / folder / "__init__.py").exists()
    ]
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        path = ROOT / name
        if not path.exists():
            continue
        lines = len(path.read_text().splitlines())
        if lines > MAX_LINES:
            found.append(f"{name} has {lines} lines: split it by idea (at most {MAX_LINES})")
    clean = subprocess.run(
        [sys.executable, "-c", "import operator; assert operator.add(1, 1) == 2"],
        cwd=ROOT,
        env={"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    if clean.returncode:
        found.append(f"`import operator` from the root is not the standard library's: {clean.stderr.strip()}")
    return found


if __name__ == "__main__":
    found = problems()
    print("\n".join(found) if found else "layout: ok")
    sys.exit(1 if found else 0)
