"""From a uri of a PeftJob to a store, a model's folder, or a data file.

Called by the trainer's start. What lies on a mounted file system is used in place; the rest is copied. Only the files
that a model needs are copied, and of weights only safetensors: a pickle would run code.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from peftjob_api import Reason
from peftjob_api.spec import BaseModelSpec, StorageSpec

from ..exits import TrainerError
from . import hub
from .files import FileStore
from .s3 import S3Store, make_client
from .store import ObjectNotFound, Store
from .uris import parse
from .weights import INDEX_NAME, WEIGHTS_NAME, indexed_files, verify_weights

log = logging.getLogger(__name__)

CONFIG_NAME = "config.json"
_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_TOKENIZER_SUFFIXES = (".model", ".tiktoken")
_TOKENIZER_NAMES = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt"}
_PARALLEL_FILES = 4


def open_store(uri: str, storage: StorageSpec) -> Store:
    """Return the folder at a `s3://`, `pvc://` or `file://` uri; nothing is read or made yet.

    Raises:
        ValueError: The uri has another scheme; the API lets none pass as an output.
    """
    location = parse(uri)
    if location.scheme == "s3":
        return S3Store(make_client(storage.s3), location.container, location.path)
    if location.is_local:
        return FileStore(location.local, uri)
    raise ValueError(f"{uri}: no folder that can be written")


def fetch_model(model: BaseModelSpec, storage: StorageSpec, dest: Path) -> Path:
    """Return a local folder with the base model in the Hugging Face layout, its weights verified.

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
        _fetch_from_hub(model, storage, dest)
    else:
        _fetch_from_store(model.uri, open_store(model.uri, storage), dest)
    verify_weights(dest, model.uri)
    size = sum(path.stat().st_size for path in dest.iterdir() if path.is_file())
    log.info("%s: %.1f MB fetched in %.1f s", model.uri, size / 1e6, time.monotonic() - start)
    return dest


def _fetch_from_store(uri: str, store: Store, dest: Path) -> None:
    names = [o.key for o in store.list() if "/" not in o.key]
    _check_names(uri, names)

    def copy(name: str) -> None:
        try:
            store.download(name, dest / name)
        except ObjectNotFound as error:
            raise TrainerError(
                Reason.BASE_MODEL_CORRUPT, f"{uri}/{name}: {INDEX_NAME} names it, but it is not there: upload it"
            ) from error

    _copy_model(uri, names, dest, copy)


def _fetch_from_hub(model: BaseModelSpec, storage: StorageSpec, dest: Path) -> None:
    repo = hub.open_model(model, storage.hugging_face)
    _check_names(model.uri, repo.names)
    _copy_model(model.uri, repo.names, dest, lambda name: repo.download(name, dest))


def _copy_model(uri: str, names: Sequence[str], dest: Path, copy: Callable[[str], object]) -> None:
    """Copy the files that a model needs, the index first because it names the weights."""
    small = [name for name in names if name.endswith(_SUFFIXES)]
    with ThreadPoolExecutor(_PARALLEL_FILES) as pool:
        list(pool.map(copy, small))
        weights = indexed_files(dest, uri) if INDEX_NAME in names else [WEIGHTS_NAME]
        list(pool.map(copy, weights))


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
    if not any(name in _TOKENIZER_NAMES or name.endswith(_TOKENIZER_SUFFIXES) for name in names):
        raise _no_model(uri, f"there is no tokenizer (such as tokenizer.json), only {_some(names)}")


def _no_model(uri: str, why: str) -> TrainerError:
    return TrainerError(
        Reason.BASE_MODEL_NOT_FOUND,
        f"{uri}: {why}: set spec.baseModel.uri to a folder in the Hugging Face layout (config.json, *.safetensors, "
        f"tokenizer files)",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def fetch_file(uri: str, storage: StorageSpec, dest: Path) -> Path:
    """Return a local path of a data file.

    Args:
        uri: `s3://BUCKET/KEY`, `hf://datasets/OWNER/NAME[@REVISION]/FILE`, `pvc://CLAIM/PATH` or `file:///PATH`.
        storage: `spec.storage`.
        dest: Folder for a copy, made if need be; a copy that is there already is used. Not for `file://` and
            `pvc://`, which are read in place.

    Raises:
        TrainerError: `DATASET_NOT_FOUND`, or what the storage service says.
    """
    location = parse(uri)
    if location.is_local:
        if not location.local.is_file():
            raise _no_file(uri, f"there is no file {location.local} in the worker pods")
        return location.local
    dest.mkdir(parents=True, exist_ok=True)
    folder, _, name = location.path.rpartition("/")
    copy = dest / (location.path if location.scheme == "hf" else name)
    if copy.is_file():
        return copy  # the launcher's: downloads appear complete or not at all
    if location.scheme == "hf":
        return hub.fetch_dataset_file(uri, location, storage.hugging_face, dest)
    try:
        S3Store(make_client(storage.s3), location.container, folder).download(name, dest / name)
    except ObjectNotFound as error:
        raise _no_file(uri, f"bucket {location.container!r} has no such object") from error
    return dest / name


def _no_file(uri: str, why: str) -> TrainerError:
    return TrainerError(
        Reason.DATASET_NOT_FOUND, f"{uri}: {why}: upload it, or correct spec.dataset.train, validation or test"
    )
