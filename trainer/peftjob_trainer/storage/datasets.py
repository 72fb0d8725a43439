"""From the uris and patterns of `spec.dataset` to data files of this node.

Called by the launcher, once for all ranks of the node, and by `data.load`, which then finds what was fetched. In a
pattern `*` stands for any part of a name and `**` for any folders; hidden names are none of theirs.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from peftjob_api import Reason
from peftjob_api.spec import StorageSpec

from ..exits import TrainerError
from . import hub
from .s3 import S3Store, make_client
from .store import ObjectNotFound
from .uris import parse

_LISTING = "files.json"
_PARALLEL_FILES = 8
_WILDCARDS = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*"}


def fetch_files(uris: Sequence[str], storage: StorageSpec, dest: Path) -> dict[str, Path]:
    """Return the uri and local path of each file, in order: as the uris are, those of a pattern by their names.

    Args:
        uris: Of files, or patterns: `s3://BUCKET/KEY`, `hf://datasets/OWNER/NAME[@REVISION]/FILE`, `pvc://CLAIM/PATH`
            or `file:///PATH`.
        storage: `spec.storage`.
        dest: Folder for copies and for the list of what was found, made if need be; what an earlier call for the same
            uris has fetched there is used. Not for `file://` and `pvc://`, which are read in place.

    Raises:
        TrainerError: `DATASET_NOT_FOUND`, or what the storage service says.
    """
    listing = dest / _LISTING
    if listing.is_file():
        known = json.loads(listing.read_text(encoding="utf-8"))
        if known["uris"] == list(uris):
            return {uri: Path(path) for uri, path in known["files"].items()}
    found: dict[str, Path] = {}
    for number, uri in enumerate(uris):
        for each, path in _fetch(uri, storage, dest / str(number)).items():
            found.setdefault(each, path)
    if all(parse(uri).is_local for uri in uris):
        return found
    temporary = listing.with_suffix(f".{os.getpid()}")
    temporary.write_text(
        json.dumps({"uris": list(uris), "files": {uri: str(path) for uri, path in found.items()}}), encoding="utf-8"
    )
    temporary.replace(listing)
    return found


def fetch_beside(uri: str, names: Iterable[str], storage: StorageSpec, folder: Path) -> None:
    """Copy files that lie beside a file on S3; what is not there is left out, for its reader to tell.

    Args:
        uri: Of the file.
        names: Paths relative to its folder, none of which leaves it.
        storage: `spec.storage`.
        folder: With the copy of the file.

    Raises:
        TrainerError: What the storage service says.
    """
    location = parse(uri.rpartition("/")[0])
    store = S3Store(make_client(storage.s3), location.container, location.path)

    def copy(name: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(ObjectNotFound):
            store.download(name, path)
        return path

    _copied("", [name for name in names if not (folder / name).exists()], copy)


def all_here(uris: Iterable[str]) -> bool:
    """Tell whether all data lies on this machine."""
    return all(parse(uri).is_local and _local(uri) for uri in uris)


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern stands for, sorted."""
    parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
    compiled = re.compile("".join(_WILDCARDS.get(part) or re.escape(part) for part in parts), re.DOTALL)
    return sorted(name for name in names if compiled.fullmatch(name) and not re.search(r"(^|/)[.]", name))


def _fetch(uri: str, storage: StorageSpec, folder: Path) -> dict[str, Path]:
    """Return the uri and path of each file of a uri or pattern."""
    location = parse(uri)
    if location.is_local:
        found = _local(uri)
        if not found:
            what = "no file matches" if "*" in uri else f"there is no file {location.local}"
            raise _no_file(uri, f"{what} in the worker pods")
        return found
    return _from_hub(uri, storage, folder) if location.scheme == "hf" else _from_s3(uri, storage, folder)


def _split(uri: str) -> tuple[str, str]:
    """Return the folder that is sure, with its `/`, and what is below it: a pattern, or a file's name."""
    uri = uri.rstrip("/")
    at = uri.partition("*")[0].rindex("/") + 1
    return uri[:at], uri[at:]


def _local(uri: str) -> dict[str, Path]:
    """Return the files of a uri or pattern on a mounted file system; none if there is none."""
    if "*" not in uri:
        path = parse(uri).local
        return {uri: path} if path.is_file() else {}
    head, pattern = _split(uri)
    root = parse(head).local
    deepest = None if "**" in pattern else pattern.count("/")
    names = [name for name in matching(pattern, _walk(root, deepest)) if (root / name).is_file()]
    return {head + name: root / name for name in names}


def _walk(root: Path, deepest: int | None) -> Iterable[str]:
    """Yield the names of all files below a folder, relative to it, at most so many folders deep."""
    for folder, folders, names in os.walk(root):
        below = Path(folder).relative_to(root)
        if deepest is not None and len(below.parts) >= deepest:
            folders.clear()
        yield from ((below / name).as_posix() for name in names)


def _from_s3(uri: str, storage: StorageSpec, folder: Path) -> dict[str, Path]:
    head, pattern = _split(uri)
    location = parse(head)
    store = S3Store(make_client(storage.s3), location.container, location.path)
    names = [pattern]
    if "*" in pattern:
        names = matching(pattern, (found.key for found in store.list(pattern.partition("*")[0])))
        if not names:
            raise _no_file(uri, f"no object of bucket {location.container!r} matches")

    def copy(name: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            store.download(name, path)
        except ObjectNotFound as error:
            raise _no_file(head + name, f"bucket {location.container!r} has no such object") from error
        return path

    return _copied(head, names, copy)


def _from_hub(uri: str, storage: StorageSpec, folder: Path) -> dict[str, Path]:
    head, pattern = _split(uri)
    repo = hub.open_dataset(uri, storage.hugging_face)
    above = parse(head).path.rstrip("/")
    above = f"{above}/" if above else ""
    names = [pattern]
    if "*" in pattern:
        names = matching(pattern, (n.removeprefix(above) for n in repo.names if n.startswith(above)))
        if not names:
            raise _no_file(uri, f"no file of the data set at {repo.api.endpoint} matches")
    return _copied(head, names, lambda name: repo.download(above + name, folder))


def _copied(head: str, names: Sequence[str], copy: Callable[[str], Path]) -> dict[str, Path]:
    with ThreadPoolExecutor(_PARALLEL_FILES) as pool:
        return dict(zip((head + name for name in names), pool.map(copy, names), strict=True))


def _no_file(uri: str, why: str) -> TrainerError:
    return TrainerError(
        Reason.DATASET_NOT_FOUND, f"{uri}: {why}: upload it, or correct spec.dataset.train, validation or test"
    )
