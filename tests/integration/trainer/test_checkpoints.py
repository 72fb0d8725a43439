"""Checkpoints on a real S3 server and on files: a writer that is killed leaves the one before, or its own whole."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peftjob_api import JobIdentity
from peftjob_api.constants import CHECKPOINTS_FOLDER
from peftjob_api.spec import StorageSpec
from peftjob_trainer.checkpoints.names import remove
from peftjob_trainer.checkpoints.state import TrainingState, read_state
from peftjob_trainer.checkpoints.stored import Stored
from peftjob_trainer.claim import Claim
from peftjob_trainer.history import History
from peftjob_trainer.steps import StepRecord, Steps
from peftjob_trainer.storage import Store, open_store
from peftjob_trainer.storage import s3 as s3_module

Open = Callable[[], Store]
CALLS = 6
"""That change something: three files, the claim, and two that go."""


@pytest.fixture(params=["s3", "file"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a function that opens one folder anew, as a new process would; on S3 states go up in parts."""
    if request.param == "file":
        return lambda: open_store(f"file://{tmp_path}/out", StorageSpec())
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 2**20)  # the least that S3 takes
    storage: StorageSpec = request.getfixturevalue("storage")
    uri = f"s3://adapters/{uuid.uuid4().hex}"
    return lambda: open_store(uri, storage)


def state(step: int) -> TrainingState:
    """Return a run whose file has more than one part."""
    trained = torch.full((600_000,), float(step))
    return TrainingState(
        step=step,
        job={},
        shapes={"a": (600_000,)},
        tensors={
            "trained": trained,
            "exp_avg": trained / 3,
            "exp_avg_sq": trained / 7,
            "updates": torch.tensor([step]),
        },
        history=History(Steps.of(StepRecord(n, n / 9, 1 / n, 0.1, 0.2, 3.0, 4.0) for n in range(1, step + 1))),
        best_step=step,
        best=torch.full((600_000,), step / 2),
    )


class KilledError(BaseException):
    """The process is gone: no code of its runs any more."""


def killed_at(store: Store, call: int, *, is_done: bool) -> Store:
    """Return a store whose user dies at a call that changes something, before it has reached the server or after."""
    left = iter(range(call, -1, -1))

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **conditions: Any) -> Any:
            last = next(left) == 0
            if last and not is_done:
                raise KilledError
            result = act(*arguments, **conditions)
            if last:
                raise KilledError
            return result

        return wrapped

    store.put, store.delete = dying(store.put), dying(store.delete)  # type: ignore[method-assign]
    return store


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_writer_that_is_killed_leaves_nothing_torn(
    opened: Open, job: JobIdentity, tmp_path: Path, is_done: bool
) -> None:
    want = [10, 10, 10, 20 if is_done else 10, 20, 20]
    found = []
    for call in range(CALLS):
        store = opened()
        claim = Claim.take(store, job, 1, f"{call}-first")
        stored = Stored(claim, 1, tmp_path)
        stored.clear()
        stored.add(state(10))
        killed_at(store, call, is_done=is_done)
        with pytest.raises(KilledError):
            stored.add(state(20))
        again = opened()
        claim = Claim.take(again, job, 1, f"{call}-second")
        second = Stored(claim, 1, tmp_path)
        second.sweep()
        newest = second.newest()
        assert newest is not None
        assert newest.best is not None
        read = read_state(newest.state.read_bytes(), newest.best.read_bytes())
        assert torch.equal(read.tensors["exp_avg"], state(read.step).tensors["exp_avg"])
        assert read.best is not None
        assert float(read.best[0]) == read.step / 2
        assert read.history == state(read.step).history
        listed = {key for entry in claim.record.checkpoints for key in entry.files}
        assert {o.key for o in again.list(f"{CHECKPOINTS_FOLDER}/")} == listed
        found.append(read.step)
    assert found == want


def test_all_of_them_can_be_removed(opened: Open, job: JobIdentity, tmp_path: Path) -> None:
    store = opened()
    Stored(Claim.take(store, job, 1, "g"), 2, tmp_path).add(state(10))
    out = tmp_path / "out" / CHECKPOINTS_FOLDER
    if out.exists():  # what a write that was killed leaves in a folder
        (out / "step-00000010-claim-1" / ".peftjob-tmp-killed").write_bytes(b"half")
    remove(store)
    assert store.list(f"{CHECKPOINTS_FOLDER}/") == []
    assert not out.exists()
