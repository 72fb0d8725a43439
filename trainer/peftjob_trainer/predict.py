"""Predicts with an adapter, or a merged model, that a PeftJob published.

    python -m peftjob_trainer.predict --adapter s3://adapters/support --input questions.jsonl --output answers.jsonl
    echo "It works." | python -m peftjob_trainer.predict --adapter ./sentiment

One JSON object a line comes out for each row that goes in, in the same order; docs/using.md says what it holds.
Rows are read from the columns that were trained on, from .jsonl, .csv or .parquet files; without --input, and from
.txt files, each line is a text, or the path of an image. For a classifier of images --input may also be an image, or a
folder of images. The base model is the one that the adapter was trained on, unless --base names another place of it.
Credentials of S3 and hubs come from the environment.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from peftjob_api import Reason
from peftjob_api.spec import StorageSpec

from .commands import Parser, exit_code_of
from .exits import TrainerError

with redirect_stdout(sys.stderr):  # where DeepSpeed, once it is imported, has to say what it says of the machine
    from . import session
    from .predicting import PREDICTORS, load, predict, read_inputs
    from .predicting.inputs import STDIN
    from .predicting.predictor import Settings


def parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    found = Parser(
        prog="python -m peftjob_trainer.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--adapter", required=True, help="folder, or s3:// or pvc:// uri, of an adapter or merged model")
    found.add_argument("--base", help="folder, or hf://, s3:// or pvc:// uri, of the base model")
    found.add_argument("--input", default=STDIN, help="file of rows, or images; default: lines of standard input")
    found.add_argument("--format", choices=["JSONL", "CSV", "Parquet", "Text"], help="of --input; default: its ending")
    found.add_argument("--output", type=Path, help="file for the answers; default: standard output")
    found.add_argument("--batch-size", type=int, default=Settings.batch_size)
    found.add_argument("--max-new-tokens", type=int, default=Settings.max_new_tokens)
    found.add_argument("--temperature", type=float, default=Settings.temperature, help="0: the likeliest token")
    found.add_argument("--seed", type=int, default=Settings.seed, help="of sampling")
    found.add_argument("--s3-endpoint")
    found.add_argument("--s3-region")
    return found


def uri_of(place: str) -> str:
    """Return the uri of a folder, or a uri as it is."""
    return place.rstrip("/") if "://" in place else f"file://{Path(place).resolve()}"


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the answers.

    Raises:
        TrainerError: For everything that is foreseen.
    """
    if options.batch_size < 1 or options.max_new_tokens < 1 or options.temperature < 0:
        raise TrainerError(
            Reason.INVALID_CONFIG, "--batch-size and --max-new-tokens are at least 1, --temperature at least 0"
        )
    s3 = {"endpoint": options.s3_endpoint, "region": options.s3_region}
    storage = StorageSpec.model_validate({"s3": {name: value for name, value in s3.items() if value}})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classes = {kind: predictor.auto_class for kind, predictor in PREDICTORS.items()}
    with tempfile.TemporaryDirectory(prefix="peftjob-predict-") as work:
        base = uri_of(options.base) if options.base else None
        loaded = load(uri_of(options.adapter), base, storage, Path(work), classes, device)
        parts = PREDICTORS[loaded.usage.kind].parts
        inputs = read_inputs(options.input, options.format, parts, loaded.usage.columns)
        settings = Settings(options.batch_size, options.max_new_tokens, options.temperature, options.seed)
        return predict(loaded, inputs, settings)


def answer(options: argparse.Namespace) -> None:
    """Write the answers where they are to go.

    Raises:
        TrainerError: For everything that is foreseen.
    """
    lines = "".join(json.dumps(found, ensure_ascii=False) + "\n" for found in run(options))
    if options.output is None:
        sys.stdout.write(lines)
    else:
        options.output.write_text(lines, encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Run; return the exit code."""
    session.quiet_libraries()
    return exit_code_of(lambda: answer(parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
