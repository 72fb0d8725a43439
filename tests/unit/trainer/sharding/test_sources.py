"""Which requests are made for which reads, and local files that are not what they were."""

import ctypes
import mmap
import os
import shutil
from pathlib import Path

import numpy
import pytest
from peftjob_api import Reason
from peftjob_api.spec import StorageSpec
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.sharding.sources import LocalSource, Read, open_source, pieces, populate, scatter
from safetensors.numpy import save_file


def read(offset: int, size: int, file: str = "a", tensor: str = "t") -> Read:
    return Read(file, offset, memoryview(bytearray(size)), tensor)


@pytest.mark.parametrize(
    ("reads", "gap", "want"),
    [
        ([(100, 50), (0, 100)], 0, [(0, 150)]),
        ([(0, 100), (101, 50)], 0, [(0, 100), (101, 151)]),
        ([(0, 990), (994, 6)], 4, [(0, 1000)]),
        ([(0, 900), (906, 50)], 4, [(0, 900), (906, 956)]),
        ([(0, 100), (104, 100)], 4, [(0, 100), (104, 204)]),
        ([(0, 2500)], 0, [(0, 1000), (1000, 2000), (2000, 2500)]),
        ([(0, 600), (600, 600)], 0, [(0, 600), (600, 1200)]),
    ],
    ids=[
        "neighbours become one",
        "others stay apart",
        "a small gap is read along",
        "a larger one is not",
        "nor one that is much beside what is read",
        "large ones are split",
        "no request is larger than a part",
    ],
)
def test_requests(reads: list[tuple[int, int]], gap: int, want: list[tuple[int, int]]) -> None:
    found = pieces([read(*one) for one in reads], 1000, gap)
    assert [(piece.start, piece.stop) for piece in found] == want


def test_gaps_of_one_size_are_read_along_as_long_as_all_together_are_little() -> None:
    reads = [(104 * number, 100) for number in range(40)]  # 0.5 % of 4000 bytes: five gaps of 4
    found = pieces([read(*one) for one in reads], 10_000, 4)
    assert sum(piece.stop - piece.start for piece in found) == 4000 + 5 * 4


def test_files_stay_apart() -> None:
    assert len(pieces([read(0, 10, "a"), read(10, 10, "b")], 1000, 100)) == 2


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_chunks_of_any_size_end_where_they_belong(size: int) -> None:
    content = bytes(range(100))
    reads = [read(10, 20), read(30, 5), read(40, 60)]
    (piece,) = pieces(reads, 1000, 0)[:1]
    piece = type(piece)(tuple(reads))
    for at in range(piece.start, piece.stop, size):
        scatter(piece, at, content[at : min(at + size, piece.stop)])
    assert [bytes(r.into) for r in reads] == [content[r.offset : r.stop] for r in reads]


VALUES = {"embed": numpy.arange(5000, dtype="float32"), "head": numpy.arange(3000, dtype="float32")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(VALUES, tmp_path / "model.safetensors")
    return tmp_path


def opened(folder: Path) -> LocalSource:
    source = open_source(folder, f"file://{folder}", StorageSpec())
    assert isinstance(source, LocalSource)
    return source


def read_head(source: LocalSource) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.float32]]:
    about = source.weights.files["model.safetensors"]
    found = numpy.zeros(3000, dtype="float32")
    first = about.start + about.tensors["head"]["data_offsets"][0]
    source.read([Read("model.safetensors", first, memoryview(found.view("uint8")), "head")])
    return found


def test_a_range_of_a_local_file(folder: Path) -> None:
    source = opened(folder)
    assert read_head(source).tolist() == VALUES["head"].tolist()
    assert source.bytes_read == VALUES["head"].nbytes
    source.verify()


def test_a_file_cut_short_while_it_is_read_is_named(folder: Path) -> None:
    source = opened(folder)
    os.truncate(folder / "model.safetensors", 24_000)
    with pytest.raises(TrainerError) as error:
        read_head(source)
    assert error.value.reason is Reason.BASE_MODEL_CORRUPT
    wanted = (f"{folder}/model.safetensors", "tensor 'head'", "24000 bytes")
    assert [part for part in wanted if part not in error.value.message] == []


def renamed(file: Path) -> None:
    shutil.copy(file, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def written(file: Path) -> None:
    with file.open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"x")
    os.utime(file, ns=(1, 1))  # clocks of file systems are coarse


@pytest.mark.parametrize("change", [renamed, written, Path.unlink], ids=["replaced", "overwritten", "removed"])
def test_a_file_that_changes_meanwhile_is_an_error(folder: Path, change: object) -> None:
    source = opened(folder)
    read_head(source)
    change(folder / "model.safetensors")  # type: ignore[operator]
    with pytest.raises(TrainerError, match="changed while") as error:
        source.verify()
    assert error.value.reason is Reason.BASE_MODEL_CORRUPT


def test_fingerprints_tell_other_tensors_apart(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    save_file({"embed": VALUES["embed"], "tail": VALUES["head"]}, other / "model.safetensors")
    first = opened(folder).fingerprint()
    assert first == opened(folder).fingerprint() != opened(other).fingerprint()
    assert 0 <= first < 2**63


def resident(memory: mmap.mmap) -> int:
    """Return how many pages of a mapping have memory."""
    libc, pages = ctypes.CDLL(None), (ctypes.c_ubyte * (len(memory) // mmap.PAGESIZE))()
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), pages) == 0
    return sum(page & 1 for page in pages)


def test_new_memory_is_mapped_at_once_and_keeps_what_is_beside_it() -> None:
    memory = mmap.mmap(-1, 64 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[0] = 7
    assert resident(memory) == 1
    populate([memoryview(memory)[100 : 20 * mmap.PAGESIZE + 1], memoryview(memory)[-10:]])
    assert resident(memory) == 21  # what is less than a page is left to who writes there
    assert memory[0] == 7
