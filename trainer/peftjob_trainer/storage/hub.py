"""Models and data sets from a Hugging Face hub, or from a mirror that speaks its protocol.

Used by `fetch`. The library does the transfer; `HF_TOKEN` and `HF_ENDPOINT` in the environment are its own names, and
`spec.storage.huggingFace` goes before them. A branch is resolved to its commit once, so all files are of one version.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import disable_progress_bars
from peftjob_api import Reason
from peftjob_api.spec import BaseModelSpec, HuggingFaceStorageSpec

from ..exits import TrainerError
from .patience import Busy
from .store import CHUNK_BYTES, PreconditionFailed, no_ranges
from .uris import parse

TIMEOUT_SECONDS = 10.0
READ_SECONDS = 30.0
"""Without a byte, while a range is read."""
ATTEMPTS = 3


@dataclass(frozen=True)
class Repo:
    """One repository at one commit."""

    api: HfApi
    uri: str
    repo_id: str
    kind: Literal["model", "dataset"]
    commit: str
    names: list[str]
    """Of its files; of a model, those at its top level."""

    def download(self, name: str, folder: Path) -> Path:
        """Copy one file into a folder, under its own path."""
        with _told(self.uri, self.kind, self.api.endpoint):
            path = self.api.hf_hub_download(
                self.repo_id,
                name,
                repo_type=self.kind,
                revision=self.commit,
                local_dir=folder,
                etag_timeout=TIMEOUT_SECONDS,
            )
        return Path(path)

    def about(self, name: str) -> tuple[int, str]:
        """Return the size of a file in bytes, and its ETag."""
        with _told(self.uri, self.kind, self.api.endpoint):
            found = self.api.get_hf_file_metadata(url=self._url(name), timeout=TIMEOUT_SECONDS)
        if found.size is None:
            raise no_ranges(f"{self.uri}/{name}", self.api.endpoint)
        return found.size, found.etag or ""

    def chunks(self, name: str, start: int, stop: int, size: int, etag: str) -> Iterator[bytes]:
        """Yield a file's bytes from `start` to before `stop` as they come, once: the caller asks again.

        Args:
            name: Of the file.
            start: Offset of the first byte.
            stop: Offset after the last.
            size: Of the file, as `about` told it.
            etag: Of the file, as `about` told it; empty: not known.

        Raises:
            PreconditionFailed: It is not that file any more.
            TrainerError: `STORAGE_UNAVAILABLE`: asking again may help. Others: it does not.
        """
        where = f"{self.uri}/{name}"
        with _told(self.uri, self.kind, self.api.endpoint):
            # The hub sends on to a content store, by an address that holds for some minutes.
            direct = self._direct.get(name)
            headers = {} if direct else build_hf_headers(token=self.api.token)
            headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
            with self._client.stream("GET", direct or self._url(name), headers=headers) as answer:
                if answer.status_code == 416:
                    raise PreconditionFailed(where)
                if answer.status_code >= 400:
                    answer.read()
                    if self._direct.pop(name, None):
                        raise _unavailable(self.uri, str(answer.url), f"it answers {answer.status_code}")
                hf_raise_for_status(answer)
                self._check(answer, where, start, stop, size, etag)
                if answer.history and not self._is_own(answer):
                    self._direct[name] = str(answer.url)
                yield from answer.iter_bytes(CHUNK_BYTES)

    def _check(self, answer: Any, where: str, start: int, stop: int, size: int, etag: str) -> None:
        """Make sure that an answer holds the range that was asked for, of the file that was asked for."""
        own = [one for one in (*answer.history, answer) if self._is_own(one)]
        found = own[-1].headers.get("X-Linked-Etag") or own[-1].headers.get("ETag") if own else None
        if found and etag and found.removeprefix("W/").strip('"') != etag:
            raise PreconditionFailed(where)
        told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if told and told[3] not in ("*", str(size)):
            raise PreconditionFailed(where)
        if (
            answer.status_code != 206
            or answer.headers.get("Content-Length") != str(stop - start)
            or (told and told.group(1, 2) != (str(start), str(stop - 1)))
        ):
            raise no_ranges(where, self.api.endpoint)

    def _is_own(self, answer: Any) -> bool:
        """Tell whether the hub itself answers, which gets the token, and not a content store."""
        own = type(answer.url)(self.api.endpoint)
        return (answer.url.scheme, answer.url.netloc) == (own.scheme, own.netloc)

    def close(self) -> None:
        """Close the connections for ranges."""
        if client := self.__dict__.pop("_client", None):
            client.close()

    @cached_property
    def _direct(self) -> dict[str, str]:
        return {}

    @cached_property
    def _client(self) -> Any:
        """The library's kind of client, but one that HF_HUB_OFFLINE does not stop: ranks have that set."""
        return type(get_session())(follow_redirects=True, timeout=READ_SECONDS)

    def _url(self, name: str) -> str:
        return hf_hub_url(self.repo_id, name, repo_type=self.kind, revision=self.commit, endpoint=self.api.endpoint)


def open_commit(uri: str, commit: str, spec: HuggingFaceStorageSpec | None) -> Repo:
    """Return the repository of an `hf://` model at a commit, without asking for it."""
    return Repo(_api(spec), uri, parse(uri).container, "model", commit, [])


def open_model(model: BaseModelSpec, spec: HuggingFaceStorageSpec | None) -> Repo:
    """Return the repository of an `hf://` model at its revision's commit."""
    return _open(model.uri, parse(model.uri).container, "model", model.revision, spec)


def open_dataset(uri: str, spec: HuggingFaceStorageSpec | None) -> Repo:
    """Return the repository of a file or pattern of an `hf://datasets/` data set, at its revision's commit."""
    location = parse(uri)
    return _open(uri, location.container, "dataset", location.revision, spec)


def _open(
    uri: str,
    repo_id: str,
    kind: Literal["model", "dataset"],
    revision: str | None,
    spec: HuggingFaceStorageSpec | None,
) -> Repo:
    disable_progress_bars()  # pods' logs are files, not terminals
    api = _api(spec)
    for attempt in range(ATTEMPTS):
        try:
            with _told(uri, kind, api.endpoint):
                info = api.repo_info(
                    repo_id, repo_type=kind, revision=revision or constants.DEFAULT_REVISION, timeout=TIMEOUT_SECONDS
                )
            break
        except TrainerError as error:
            if error.reason is not Reason.STORAGE_UNAVAILABLE or attempt == ATTEMPTS - 1:
                raise
            time.sleep(2**attempt)
    names = [file.rfilename for file in getattr(info, "siblings", None) or []]
    names = [name for name in names if kind == "dataset" or "/" not in name]
    return Repo(api, uri, repo_id, kind, info.sha or revision or constants.DEFAULT_REVISION, names)


def _api(spec: HuggingFaceStorageSpec | None) -> HfApi:
    endpoint = (spec.endpoint if spec else None) or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    return HfApi(endpoint=endpoint.rstrip("/"))


@contextmanager
def _told(uri: str, kind: Literal["model", "dataset"], endpoint: str) -> Iterator[None]:
    """Turn the library's errors into ours."""
    not_found = Reason.BASE_MODEL_NOT_FOUND if kind == "model" else Reason.DATASET_NOT_FOUND
    field = "spec.baseModel.uri" if kind == "model" else "the uri in spec.dataset"
    access = "spec.storage.huggingFace.secretName (a Secret with the key HF_TOKEN)"
    try:
        yield
    except GatedRepoError as error:
        raise TrainerError(
            Reason.STORAGE_ACCESS_DENIED,
            f"{uri}: access to it has to be granted by its owners: ask for it at {endpoint}, and set {access} to a "
            f"token of who got it",
        ) from error
    except RepositoryNotFoundError as error:
        # The hub answers 401 both for what is not there and for what a missing or wrong token may not see.
        denied = error.response.status_code in (401, 403) and bool(os.environ.get("HF_TOKEN"))
        raise TrainerError(
            Reason.STORAGE_ACCESS_DENIED if error.response.status_code in (401, 403) else not_found,
            f"{uri}: {endpoint} has no such {kind}, or "
            + (
                f"the token may not read it: correct {field} or {access}"
                if denied
                else f"it is private: correct {field} or set {access}"
            ),
        ) from error
    except RevisionNotFoundError as error:
        where = "spec.baseModel.revision" if kind == "model" else "the @REVISION of the uri in spec.dataset"
        raise TrainerError(not_found, f"{uri}: there is no such revision: correct {where}") from error
    except RemoteEntryNotFoundError as error:
        raise TrainerError(not_found, f"{uri}: there is no such file at {endpoint}: correct {field}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise TrainerError(
                Reason.STORAGE_ACCESS_DENIED, f"{uri}: {endpoint} refuses access ({status}): set {access}"
            ) from error
        told = _unavailable(uri, endpoint, f"it answers {status}")
        wait = error.response.headers.get("Retry-After", "")
        raise (Busy(told.message, float(wait)) if wait.isdigit() else told) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _unavailable(uri, endpoint, str(error.__cause__ or error).splitlines()[0]) from error
    except OSError as error:
        raise _unavailable(uri, endpoint, str(error)) from error
    except Exception as error:
        # Which HTTP client the library uses, and so the class of its connection errors, is its own affair.
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "requests"):
            raise
        raise _unavailable(uri, endpoint, str(error) or type(error).__name__) from error


def _unavailable(uri: str, endpoint: str, why: str) -> TrainerError:
    return TrainerError(
        Reason.STORAGE_UNAVAILABLE,
        f"{uri}: no usable answer from {endpoint} ({why}): check spec.storage.huggingFace.endpoint and that the "
        f"workers' network reaches it",
    )
