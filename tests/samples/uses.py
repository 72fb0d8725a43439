"""Every sample by its name, which is that of its file in crds/samples if the trainer has its task.

`python -m samples.uses FOLDER` writes the data of all into a folder, and prints what simple programs score on it.
"""

import sys
from pathlib import Path

from . import banking, chatbot, imaging, retail, sentiment, style, translation
from .bases import base_folder
from .kit import Sample

JOBS = Path(__file__).resolve().parents[2] / "crds/samples"
SAMPLES: dict[str, Sample] = {
    sample.name: sample
    for sample in (
        sentiment.SAMPLE,
        *translation.SAMPLES,
        chatbot.SAMPLE,
        style.SAMPLE,
        imaging.SAMPLE,
        banking.SAMPLE,
        retail.SAMPLE,
    )
}


def runnable() -> list[str]:
    """Return the names of the samples that have a job."""
    return [name for name in SAMPLES if (JOBS / f"{name}.yaml").exists()]


def base_of(sample: Sample, *, is_quick: bool = False) -> Path:
    """Return the folder of a sample's base, pretrained now if it is not there."""
    if sample.base == "all-MiniLM-L6-v2":
        from demo import sentiment_data

        return sentiment_data.base_model_folder()
    return base_folder(sample.base, is_quick=is_quick)


def main(folder: Path) -> None:
    """Write all data; print the baselines."""
    for name, sample in SAMPLES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        sample.write(folder / name)
        answers = sample.answers(folder / name)
        for baseline, said in sample.baselines(folder / name).items():
            print(f"{name:26} {sample.metric:34} {baseline:32} {sample.score(said, answers):8.3f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
