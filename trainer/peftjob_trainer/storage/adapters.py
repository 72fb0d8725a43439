"""From the uri of an adapter to its files on this machine. Used by `launch`, `session` and `predict`.

An adapter is small, so all its files are copied; a merged model that lies beside it (`merged/`) is not. What its
`manifest.json` lists is checked against the digests there; an adapter that peft itself wrote has none.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from peftjob_api import Reason
from peftjob_api.constants import CLAIM_NAME, MANIFEST_NAME
from peftjob_api.spec import StorageSpec

from ..exits import TrainerError
from .fetch import open_store
from .store import ObjectNotFound
from .uris import parse

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"
_PARALLEL_FILES: Final = 4


def fetch_adapter(uri: str, storage: StorageSpec, dest: Path, field: str) -> Path:
    """Return a local folder with an adapter's files.

    Args:
        uri: `s3://BUCKET/PREFIX`, `pvc://CLAIM/PATH` or `file:///PATH`.
        storage: `spec.storage`.
        dest: Folder for a copy, made if need be; a copy that is there already is used. Not for `file://` and
            `pvc://`, which are read in place.
        field: That the uri stands in, for messages.

    Raises:
        TrainerError: `ADAPTER_NOT_FOUND` (no adapter there), `ADAPTER_UNSUITABLE` (a file is not what the manifest
            says), or what the storage service says.
    """
    location = parse(uri)
    folder = location.local if location.is_local else dest
    if location.is_local:
        names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    elif (dest / CONFIG_NAME).is_file():
        return dest  # the launcher's; the config comes last
    else:
        names = _copy(uri, storage, dest)
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if name not in names]
    if missing:
        some = ", ".join(sorted(names)[:5]) or "nothing"
        raise TrainerError(
            Reason.ADAPTER_NOT_FOUND,
            f"{uri}: there is no {' and no '.join(missing)}, only {some}: set {field} to the folder of an adapter",
        )
    _verify(folder, uri)
    return folder


def _copy(uri: str, storage: StorageSpec, dest: Path) -> list[str]:
    """Copy the files of a folder, the config last; return their names."""
    store = open_store(uri, storage)
    names = [o.key for o in store.list() if "/" not in o.key and o.key != CLAIM_NAME]
    dest.mkdir(parents=True, exist_ok=True)

    def copy(name: str) -> None:
        try:
            store.download(name, dest / name)
        except ObjectNotFound as error:
            raise TrainerError(
                Reason.ADAPTER_NOT_FOUND, f"{uri}/{name} was removed while it was read: try again"
            ) from error

    if CONFIG_NAME not in names or WEIGHTS_NAME not in names:
        return names
    with ThreadPoolExecutor(_PARALLEL_FILES) as pool:
        list(pool.map(copy, [name for name in names if name != CONFIG_NAME]))
    copy(CONFIG_NAME)
    return names


def _verify(folder: Path, uri: str) -> None:
    """Check the files by which an adapter is loaded against its manifest, if it has one."""
    try:
        files = json.loads((folder / MANIFEST_NAME).read_bytes())["files"]
        known = {name: files[name]["sha256"] for name in (CONFIG_NAME, WEIGHTS_NAME)}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    for name, digest in known.items():
        if sha256(folder / name) != digest:
            raise TrainerError(
                Reason.ADAPTER_UNSUITABLE,
                f"{uri}/{name}: its sha256 is not the one of {MANIFEST_NAME}: copy the adapter again",
            )


def sha256(path: Path) -> str:
    """Return the digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
