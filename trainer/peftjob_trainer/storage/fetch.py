"""From a uri of a PeftJob to a store or a model's folder.

Called by the trainer's start. What lies on a mounted file system is used in place. Of a model elsewhere, the small
files that it needs are copied; its weights stay there, for each rank reads only its own part of them. Only their
headers are read here, so that what is missing, cut or damaged is told early. Weights are safetensors or nothing: a
pickle would run code.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from peftjob_api import Reason
from peftjob_api.spec import BaseModelSpec, StorageSpec

from ..exits import TrainerError
from . import hub
from .files import FileStore
from .patience import Policy, retried
from .s3 import S3Store, make_client
from .store import ObjectNotFound, PreconditionFailed, Store
from .uris import parse
from .weights import (
    INDEX_NAME,
    WEIGHTS_NAME,
    Weights,
    WeightsFile,
    check_index,
    corrupt,
    indexed_files,
    read_header,
    verify_weights,
)

log = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_TOKENIZER_SUFFIXES = (".model", ".tiktoken")
_PROCESSOR_NAMES = {
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "preprocessor_config.json",
    "processor_config.json",
}  # fmt: skip
_PARALLEL_FILES = 4


def open_s3(uri: str, storage: StorageSpec, policy: Policy | None = None) -> S3Store:
    """Return the folder at an `s3://` uri; nothing is read yet."""
    location = parse(uri)
    return S3Store(make_client(storage.s3), location.container, location.path, policy)


def open_store(uri: str, storage: StorageSpec, policy: Policy | None = None) -> Store:
    """Return the folder at a `s3://`, `pvc://` or `file://` uri; nothing is read or made yet.

    Args:
        uri: Of the folder.
        storage: `spec.storage`.
        policy: How long each call is made again while S3 is away; `BRIEF` if none is given.

    Raises:
        ValueError: The uri has another scheme; the API lets none pass as an output.
    """
    location = parse(uri)
    if location.scheme == "s3":
        return open_s3(uri, storage, policy)
    if location.is_local:
        return FileStore(location.local, uri)
    raise ValueError(f"{uri}: no folder that can be written")


def fetch_model(model: BaseModelSpec, storage: StorageSpec, dest: Path) -> Path:
    """Return a local folder with the base model's small files; its weights are in it, or recorded in it.

    Args:
        model: `spec.baseModel`.
        storage: `spec.storage`.
        dest: Folder for a copy, made if need be; unused for `file://` and `pvc://`, which are read in place.

    Raises:
        TrainerError: `BASE_MODEL_NOT_FOUND` (nothing there, or no config, weights or tokenizer),
            `BASE_MODEL_CORRUPT` (names file and tensor), or what the storage service says.
    """
    start = time.monotonic()
    location = parse(model.uri)
    if location.is_local:
        folder = location.local
        try:
            names = [path.name for path in folder.iterdir() if path.is_file()]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _no_model(model.uri, f"there is no folder {folder} in the worker pods") from error
        except PermissionError as error:
            raise TrainerError(
                Reason.STORAGE_ACCESS_DENIED,
                f"{model.uri}: the workers may not read {folder}: correct its permissions, or spec.workers.podTemplate",
            ) from error
        _check_names(model.uri, names)
        verify_weights(folder, model.uri)
        return folder
    dest.mkdir(parents=True, exist_ok=True)
    if location.scheme == "hf":
        weights = _fetch_from_hub(model, storage, dest)
    else:
        weights = _fetch_from_store(model.uri, storage, dest)
    weights.write(dest)
    size = sum(file.size for file in weights.files.values())
    log.info(
        "%s: config, tokenizer and headers fetched in %.1f s; %d weights file(s) of %.1f MB stay there",
        model.uri, time.monotonic() - start, len(weights.files), size / 1e6,
    )  # fmt: skip
    return dest


def _fetch_from_store(uri: str, storage: StorageSpec, dest: Path) -> Weights:
    store = open_s3(uri, storage)
    objects = {o.key: o for o in store.list() if "/" not in o.key}
    _check_names(uri, list(objects))

    def header(name: str) -> WeightsFile:
        if name not in objects:
            raise corrupt(uri, name, f"{INDEX_NAME} names it, but it is not there")
        size, etag = objects[name].size, objects[name].etag

        def read(first: int, last: int) -> bytes:
            try:
                return retried(lambda: b"".join(store.chunks(name, first, last, etag)))
            except (ObjectNotFound, PreconditionFailed) as error:
                raise corrupt(uri, name, "it was replaced while its header was read") from error

        return read_header(read, size, etag, name, uri)

    return _fetch(uri, None, list(objects), dest, lambda name: store.download(name, dest / name), header)


def _fetch_from_hub(model: BaseModelSpec, storage: StorageSpec, dest: Path) -> Weights:
    with closing(hub.open_model(model, storage.hugging_face)) as repo:
        _check_names(model.uri, repo.names)

        def header(name: str) -> WeightsFile:
            if name not in repo.names:
                raise corrupt(model.uri, name, f"{INDEX_NAME} names it, but it is not there")
            size, etag = retried(lambda: repo.about(name))

            def read(first: int, last: int) -> bytes:
                try:
                    return retried(lambda: b"".join(repo.chunks(name, first, last, size, etag)))
                except PreconditionFailed as error:
                    raise corrupt(model.uri, name, "it was replaced while its header was read") from error

            return read_header(read, size, etag, name, model.uri)

        return _fetch(model.uri, repo.commit, repo.names, dest, lambda name: repo.download(name, dest), header)


def _fetch(
    uri: str,
    commit: str | None,
    names: Sequence[str],
    dest: Path,
    copy: Callable[[str], object],
    header: Callable[[str], WeightsFile],
) -> Weights:
    """Copy the small files, the index among them, then read the headers of the files that it names."""
    with ThreadPoolExecutor(_PARALLEL_FILES) as pool:
        list(pool.map(copy, [name for name in names if name.endswith(_SUFFIXES)]))
        weights = indexed_files(dest, uri) if INDEX_NAME in names else [WEIGHTS_NAME]
        files = dict(zip(weights, pool.map(header, weights), strict=True))
    check_index(dest, uri, files)
    return Weights(uri, commit, files)


def _check_names(uri: str, names: Sequence[str]) -> None:
    """Make sure that a listing holds a model that can be loaded."""
    if not names:
        raise _no_model(uri, "nothing is there")
    if CONFIG_NAME not in names:
        hint = " (it looks like an adapter, not a base model)" if "adapter_config.json" in names else ""
        raise _no_model(uri, f"there is no {CONFIG_NAME}{hint}, only {_some(names)}")
    if WEIGHTS_NAME not in names and INDEX_NAME not in names:
        pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        why = f"there is no {WEIGHTS_NAME} and no {INDEX_NAME}"
        if pickles:
            why += f", only {_some(pickles)}, which is not read because it could run code: convert it to safetensors"
        raise _no_model(uri, why)
    if not any(name in _PROCESSOR_NAMES or name.endswith(_TOKENIZER_SUFFIXES) for name in names):
        raise _no_model(
            uri,
            f"there is no tokenizer (such as tokenizer.json) and no image processor (preprocessor_config.json), only "
            f"{_some(names)}",
        )


def _no_model(uri: str, why: str) -> TrainerError:
    return TrainerError(
        Reason.BASE_MODEL_NOT_FOUND,
        f"{uri}: {why}: set spec.baseModel.uri to a folder in the Hugging Face layout (config.json, *.safetensors, "
        f"tokenizer files)",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
