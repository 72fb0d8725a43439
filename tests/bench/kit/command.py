"""What the commands share: a folder that goes away however they end, and the table at their end."""

import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.table import Found, render, to_json, verdict


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for models and runs; SIGTERM ends the command as an error would, so that all is cleaned up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="peftjob-bench-") as folder:
        yield Path(folder)


def finish(parts: dict[str, Found], json_file: Path | None) -> None:
    """Print the table and the verdict; write everything to a file, if one is given."""
    rows = [row for found in parts.values() for row in found.rows]
    print(f"\n{render(rows)}\n{verdict(rows)}", flush=True)
    if json_file:
        json_file.write_text(json.dumps({**to_json(parts), "verdict": verdict(rows)}, indent=1))
