"""Checkpoints at an output: the newest whole one is found, torn ones and those of superseded gangs never are."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peftjob_api import JobIdentity, Reason
from peftjob_api.constants import CHECKPOINTS_FOLDER, CLAIM_NAME
from peftjob_testkit.memory_store import MemoryStore
from peftjob_trainer.checkpoints.names import remove
from peftjob_trainer.checkpoints.state import TrainingState, read_state, write_state
from peftjob_trainer.checkpoints.stored import Stored
from peftjob_trainer.claim import Claim
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.history import BaseBytes, EvalRecord, History
from peftjob_trainer.steps import StepRecord, Steps

JOB = JobIdentity(namespace="team", name="sentiment", uid="uid-1")
SHAPES: dict[str, tuple[int, ...]] = {"a.lora_A": (2, 3), "a.lora_B": (4,)}


def state(step: int, best_step: int | None = None, shapes: dict[str, tuple[int, ...]] = SHAPES) -> TrainingState:
    """Return a run after a step, whose numbers tell the step."""
    trained = torch.arange(float(sum(torch.Size(shape).numel() for shape in shapes.values()))) + step
    return TrainingState(
        step=step,
        job={"training.learningRate": 1e-3},
        shapes=shapes,
        tensors={"trained": trained, "exp_avg": trained / 3, "exp_avg_sq": trained / 7,
                 "updates": torch.full((len(shapes),), step), "method.ranks": torch.tensor([True, False])},
        history=History(
            Steps.of(StepRecord(n, n / 7, 1 / n, 1e-3 / n, 0.1 * n, 100 / n, n / 9) for n in range(1, step + 1)),
            [EvalRecord(best_step, "validation", {"loss": 1 / 3})] if best_step else [],
            BaseBytes(4, 3, 2, 1),
        ),
        best_step=best_step,
        best=None if best_step is None else torch.full_like(trained, best_step),
    )  # fmt: skip


def of(store: MemoryStore, gang: str, work: Path, keep_last: int = 2) -> tuple[Claim, Stored]:
    """Return what a gang that starts now has of checkpoints."""
    claim = Claim.take(store, JOB, 1, gang)
    return claim, Stored(claim, keep_last, work)


def found(stored: Stored) -> TrainingState | None:
    """Return the content of the newest checkpoint."""
    newest = stored.newest()
    if newest is None:
        return None
    return read_state(newest.state.read_bytes(), newest.best.read_bytes() if newest.best else None)


def same(one: TrainingState | None, other: TrainingState) -> bool:
    """Tell whether two states are equal to the bit."""
    assert one is not None
    plain = [(s.step, dict(s.job), dict(s.shapes), s.history, s.best_step) for s in (one, other)]
    tensors = [{**s.tensors, **({"best": s.best} if s.best is not None else {})} for s in (one, other)]
    return plain[0] == plain[1] and tensors[0].keys() == tensors[1].keys() and all(
        torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items()
    )  # fmt: skip


def checkpoint_keys(store: MemoryStore) -> list[str]:
    return [o.key for o in store.list(f"{CHECKPOINTS_FOLDER}/")]


@pytest.mark.parametrize("name", ["trained", "exp_avg", "exp_avg_sq"])
def test_a_state_with_a_number_that_is_not_finite_is_never_written(name: str, tmp_path: Path) -> None:
    store = MemoryStore()
    _, stored = of(store, "gang", tmp_path)
    stored.add(state(3))
    before = set(store.objects)
    broken = state(4)
    broken.tensors[name][2] = float("nan")
    with pytest.raises(TrainerError, match=f"'{name}' holds a number that is not finite") as raised:
        stored.add(broken)
    assert raised.value.reason is Reason.NON_FINITE_LOSS
    assert set(store.objects) == before


def test_the_newest_before_a_step_is_found_and_the_others_stay(tmp_path: Path) -> None:
    _, stored = of(MemoryStore(), "gang", tmp_path, keep_last=3)
    for step in (2, 4, 6):
        stored.add(state(step))
    wanted = {7: 6, 6: 4, 3: 2, 2: None}
    found_before = {step: stored.newest(step) for step in wanted}
    assert {step: each.step if each else None for step, each in found_before.items()} == wanted
    assert same(found(stored), state(6))


def test_the_next_gang_finds_the_newest_to_the_bit(tmp_path: Path) -> None:
    store = MemoryStore()
    _, first = of(store, "g1", tmp_path)
    assert first.newest() is None
    first.add(state(10, best_step=8))
    info = first.add(state(20, best_step=8))
    assert info.uri == f"{store.uri}/checkpoints/step-00000020-claim-1"
    assert same(found(of(store, "g2", tmp_path)[1]), state(20, best_step=8))


def test_the_last_and_the_best_stay(tmp_path: Path) -> None:
    store = MemoryStore()
    claim, stored = of(store, "g1", tmp_path)
    for step, best in ((10, 8), (20, 8), (30, 8), (40, 36)):
        stored.add(state(step, best))
    assert [entry.step for entry in claim.record.checkpoints] == [30, 40]
    assert checkpoint_keys(store) == [
        "checkpoints/best-00000008-claim-1.safetensors", "checkpoints/best-00000036-claim-1.safetensors",
        *(f"checkpoints/step-000000{step}-claim-1/{name}" for step in (30, 40)
          for name in ("manifest.json", "state.safetensors")),
    ]  # fmt: skip
    assert len([key for key, _ in store.written if "best" in key]) == 2, "the best is written once"
    stored.add(state(50, 36))
    assert "checkpoints/best-00000008-claim-1.safetensors" not in checkpoint_keys(store)


def test_a_gang_that_goes_on_refers_to_the_best_of_the_one_before(tmp_path: Path) -> None:
    store = MemoryStore()
    of(store, "g1", tmp_path)[1].add(state(10, best_step=8))
    _, second = of(store, "g2", tmp_path)
    second.newest()
    second.add(state(20, best_step=8))
    second.add(state(30, best_step=8))
    assert same(found(of(store, "g3", tmp_path)[1]), state(30, best_step=8))
    assert [key for key in checkpoint_keys(store) if "best" in key] == ["checkpoints/best-00000008-claim-1.safetensors"]


def damaged(store: MemoryStore, key: str) -> None:
    store.objects[key] = store.objects[key][:-1] + bytes([store.objects[key][-1] ^ 1])


def missing(store: MemoryStore, key: str) -> None:
    del store.objects[key]


@pytest.mark.parametrize("spoil", [damaged, missing])
@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json", "best"])
def test_one_that_does_not_verify_is_skipped_and_told(
    name: str, spoil: Callable[[MemoryStore, str], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    _, first = of(store, "g1", tmp_path)
    first.add(state(10, best_step=8))
    first.add(state(20, best_step=16))
    spoil(
        store, next(k for k in checkpoint_keys(store) if k.endswith(f"0020-claim-1/{name}") or f"{name}-00000016" in k)
    )
    _, second = of(store, "g2", tmp_path)
    assert same(found(second), state(10, best_step=8))
    assert "checkpoints/step-00000020-claim-1: not used" in caplog.text
    second.add(state(23, best_step=16))
    damaged(store, "checkpoints/step-00000023-claim-2/state.safetensors")
    assert same(found(of(store, "g3", tmp_path)[1]), state(10, best_step=8)), "the good one has not been dropped"


def test_nothing_torn_is_ever_loaded(tmp_path: Path) -> None:
    """The writer is killed at each of its calls, and in each write at every byte."""
    store = MemoryStore()
    _, first = of(store, "g1", tmp_path, keep_last=1)
    first.add(state(10, best_step=8))
    before = dict(store.objects)
    store.written.clear()
    first.add(state(20, best_step=16))
    calls = list(store.written)
    swap = next(n for n, (key, _) in enumerate(calls) if key == CLAIM_NAME)
    assert swap == 3, "best, state and manifest come first"
    assert [body for _, body in calls[swap + 1 :]] == [None] * 3, "then what is dropped goes"
    cuts = 0
    for number, (key, body) in enumerate(calls):
        # The claim is written whole or not at all, as is every conditional write of a store.
        lengths = range(len(body) + 1) if body and key != CLAIM_NAME else [0]
        for length in lengths:
            objects = dict(before)
            for done, content in calls[:number]:
                objects.pop(done) if content is None else objects.update({done: content})
            if length and body is not None:
                objects[key] = body[:length]
            torn = MemoryStore(objects)
            claim, second = of(torn, "g2", tmp_path)
            want = state(10, 8) if number <= swap else state(20, 16)
            assert same(found(second), want), (key, length)
            second.sweep()
            assert set(checkpoint_keys(torn)) == {k for entry in claim.record.checkpoints for k in entry.files}
            cuts += 1
    assert cuts > 2000


def test_a_superseded_gang_writes_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    _, first = of(store, "g1", tmp_path)
    of(store, "g2", tmp_path)
    before = dict(store.objects)
    with pytest.raises(TrainerError) as error:
        first.add(state(20))
    assert error.value.reason is Reason.SUPERSEDED
    assert store.objects == before


def test_a_checkpoint_of_a_gang_that_is_superseded_meanwhile_never_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    _, first = of(store, "g1", tmp_path)
    first.add(state(10))
    put, others = store.put, list[Stored]()

    def superseded(key: str, *arguments: Any, **conditions: Any) -> str:
        if not others and "step-00000020-claim-1" in key:
            others.append(of(store, "g2", tmp_path)[1])
        return put(key, *arguments, **conditions)

    monkeypatch.setattr(store, "put", superseded)
    with pytest.raises(TrainerError) as error:
        first.add(state(20))
    assert error.value.reason is Reason.SUPERSEDED
    (second,) = others
    assert same(found(second), state(10))
    second.add(state(15))
    _, third = of(store, "g3", tmp_path)
    assert same(found(third), state(15))
    assert any("step-00000020-claim-1" in key for key in checkpoint_keys(store))
    third.sweep()
    assert not any("step-00000020-claim-1" in key for key in checkpoint_keys(store))


def test_a_sweep_spares_a_gang_that_came_later(tmp_path: Path) -> None:
    store = MemoryStore()
    _, first = of(store, "g1", tmp_path)
    of(store, "g2", tmp_path)[1].add(state(5))
    before = checkpoint_keys(store)
    first.sweep()
    assert checkpoint_keys(store) == before


def test_another_job_of_the_same_name_starts_at_its_first_step(tmp_path: Path) -> None:
    store = MemoryStore()
    of(store, "g1", tmp_path)[1].add(state(10))
    again = Stored(Claim.take(store, JOB.model_copy(update={"uid": "uid-2"}), 1, "g1"), 2, tmp_path)
    assert again.newest() is None
    again.sweep()
    assert checkpoint_keys(store) == []


def test_what_others_put_there_is_not_removed(tmp_path: Path) -> None:
    store = MemoryStore()
    _, stored = of(store, "g1", tmp_path)
    store.put("checkpoints/notes.txt", b"mine")
    stored.add(state(10))
    stored.clear()
    remove(store)
    assert checkpoint_keys(store) == ["checkpoints/notes.txt"]


def test_a_store_that_fails_says_nothing_about_a_checkpoint(tmp_path: Path) -> None:
    """Starting anew because S3 was away would lose all that was done."""
    store = MemoryStore()
    of(store, "g1", tmp_path)[1].add(state(10))
    _, second = of(store, "g2", tmp_path)

    def away(*_: Any) -> None:
        raise TrainerError(Reason.STORAGE_UNAVAILABLE, "no answer")

    store.download = away  # type: ignore[method-assign]
    with pytest.raises(TrainerError, match="no answer"):
        second.newest()


def test_a_checkpoint_costs_three_times_what_is_trained(tmp_path: Path) -> None:
    shapes = {f"model.layers.{n}.self_attn.q_proj.lora_A.default.weight": (16, 512) for n in range(100)}
    write_state(state(1000, shapes=shapes), tmp_path / "state")
    trained = 4 * 100 * 16 * 512
    assert 3 * trained < (tmp_path / "state").stat().st_size <= 3.1 * trained


@pytest.mark.parametrize("step", [1, 9000])
def test_a_checkpoint_tells_of_steps_what_the_run_keeps_of_them(step: int, tmp_path: Path) -> None:
    written = state(step)
    write_state(written, tmp_path / "state")
    read = read_state((tmp_path / "state").read_bytes(), None)
    assert read.history == written.history
    assert read.history.steps.seconds == written.history.steps.seconds > 0


def test_a_checkpoint_leaves_nothing_in_memory(tmp_path: Path) -> None:
    kept = ctypes._pointer_type_cache  # type: ignore[attr-defined]  # it has no public name
    write_state(state(1), tmp_path / "state")
    before = len(kept)
    for step in range(2, 12):
        write_state(state(step), tmp_path / "state")
    assert len(kept) == before
