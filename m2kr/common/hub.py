"""Datasets of the model hub: the files of a revision, and bytes of them by range requests.

What is read belongs to one commit: addresses name its hash, and an answer whose ETag or size is not that of the listing
ends the reading. ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and the user's token are respected, as all requests go through
`huggingface_hub`. It is imported where it is used: that takes a quarter of a second.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from m2kr.common.files import cache_folder, safe_name, write_json
from m2kr.common.json_input import read_json
from m2kr.errors import M2KRError, first_line

_T = TypeVar("_T")

PATIENCE = 3.0
"""Seconds the hub has to answer the first question, unless ``HF_HUB_ETAG_TIMEOUT`` says otherwise."""

_LISTING = 120.0
# Seconds for a listing, of which a page has a thousand files.

_TRIES = 5
_WAIT = 1.0
# Times a cut connection is taken up again where nothing came meanwhile, and seconds before the first of them.

_SKIPPED = 1 << 20
# Bytes that are read and dropped rather than asking anew from behind them.


class HubError(M2KRError):
    """The hub has not what was asked for, or cannot be reached."""


class HubUnreachableError(HubError):
    """The hub cannot be reached."""


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset at one commit.

    Attributes:
        repository: the dataset's id.
        commit: hash of the commit.
        path: within the dataset.
        size: bytes.
        etag: SHA-256 of a large file, the git hash of a small one.
    """

    repository: str
    commit: str
    path: str
    size: int
    etag: str

    def __str__(self) -> str:
        return f"{self.repository}/{self.path}"


@dataclass(frozen=True)
class HubListing:
    """The files of a dataset, or of a folder of it, at one commit.

    Attributes:
        repository: the dataset's id.
        commit: hash of the commit.
        files: them.
        unreachable: why the hub could not be asked, so that this is what it said last; else empty.
    """

    repository: str
    commit: str
    files: tuple[HubFile, ...]
    unreachable: str = ""

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit[:7]}"


def is_hub_id(name: str) -> bool:
    """Whether a text is spelled as the id of a dataset, ``owner/name``."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def hub_cache(repository: str) -> Path:
    """Return the folder of what is kept of a dataset: ``hub/<owner>--<name>`` in the cache of this program."""
    return cache_folder() / "hub" / safe_name(repository)


def patience() -> float:
    """Return the seconds that the hub has to answer the first question."""
    return float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or PATIENCE)


def answered(ask: Callable[[], _T], seconds: float | None = None) -> _T:
    """Return what a question to the hub gives, which has some seconds, by default those of `patience`.

    It is asked in a thread that may be left behind: the time limit of a request covers neither the look-up of the
    host's name nor an answer that comes byte by byte, and some calls of huggingface_hub wait for minutes.

    Raises:
        TimeoutError: there was no answer in time; or what ``ask`` raises.
    """
    seconds = patience() if seconds is None else seconds
    answer: Future[_T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:
            answer.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return answer.result(timeout=seconds + 0.5)
    except TimeoutError as error:
        raise TimeoutError(f"the hub did not answer within {seconds:g} seconds") from error


def told_bytes(size: int) -> str:
    """Return a number of bytes in words, as "8.96 GB"."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


def hub_listing(repository: str, folder: str = "", *, revision: str | None = None) -> HubListing:
    """Return the files of a dataset, at the newest commit of a revision.

    What the hub says is noted, and stands in where the hub cannot be reached later on.

    Args:
        repository: the dataset's id.
        folder: only the files below it.
        revision: branch, tag or commit; the main branch without one.

    Raises:
        HubError: the hub has no such dataset, folder or revision, or not for this user.
        HubUnreachableError: it cannot be reached, and nothing was noted.
    """
    note = hub_cache(repository) / "listings" / f"{safe_name('-'.join(filter(None, (revision, folder))) or 'all')}.json"
    try:
        listing = _listed(repository, folder, revision)
    except Exception as error:  # of a network, huggingface_hub and its HTTP client raise dozens of kinds
        refused = _refused(repository, folder, error)
        known = None if refused else _noted(note, repository)
        if refused:
            raise HubError(refused) from error
        if known is None:
            raise HubUnreachableError(
                f"the hub could not be asked for {'/'.join(filter(None, (repository, folder)))} "
                f"({why_unreachable(error)}). {REMEDY}"
            ) from error
        return HubListing(repository, known.commit, known.files, unreachable=why_unreachable(error))
    with suppress(M2KRError):  # it is asked for anew next time
        write_json(note, {"commit": listing.commit, "files": [asdict(file) for file in listing.files]})
    return listing


def _listed(repository: str, folder: str, revision: str | None) -> HubListing:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    commit = answered(lambda: api.dataset_info(repository, revision=revision, timeout=patience())).sha or ""
    where = {"path_in_repo": folder or None, "recursive": True, "revision": commit, "repo_type": "dataset"}
    entries = answered(lambda: list(api.list_repo_tree(repository, **where)), _LISTING)  # type: ignore[arg-type]
    files = (
        HubFile(repository, commit, entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
        for entry in entries
        if isinstance(entry, RepoFile)
    )
    return HubListing(repository, commit, tuple(files))


def _noted(note: Path, repository: str) -> HubListing | None:
    try:
        found = read_json(note, dict[str, Any], "listing", "Delete it.")
        return HubListing(repository, found["commit"], tuple(HubFile(**file) for file in found["files"]))
    except (M2KRError, OSError, TypeError, KeyError):
        return None


def _refused(repository: str, folder: str, error: BaseException) -> str:
    """Return what to tell where the hub answered that it has not what was asked for; else an empty text."""
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no dataset {repository}, or not for you. Check its spelling; where it is private or gated, "
            "accept its terms on the hub and set HF_TOKEN."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the dataset {repository} has no such revision ({first_line(error)})."
    if isinstance(error, EntryNotFoundError):
        return f"the dataset {repository} has no folder {folder!r}."
    return ""


def why_unreachable(error: BaseException) -> str:
    """Return why the hub could not be asked, in a few words."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else first_line(error)


REMEDY = "Connect to the network (HF_ENDPOINT names a mirror), or name a folder with what you have (--data, --images)."
"""What helps where the hub cannot be reached."""


class HubReader(io.RawIOBase):
    """Files of the hub, one behind the other, as one file to be read and sought in.

    Reading on, or a little further on, takes no new request. A connection that was cut is taken up where it was.
    """

    def __init__(self, parts: Sequence[HubFile]) -> None:
        self._parts = tuple(parts)
        self._ends = list(accumulate(part.size for part in parts))
        self._at = 0
        self._stream: Iterator[bytes] | None = None
        self._behind = 0  # where the stream goes on
        self._rest = b""

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the byte that is read next."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Choose the byte that is read next, and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence]
        if self._at < 0:
            raise ValueError(f"there is nothing at {self._at}")
        return self._at

    def readinto(self, buffer: object) -> int:
        """Read some bytes into a buffer and return their number.

        Raises:
            HubError: the hub cannot be reached any more, or its file is another now.
        """
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if self._at >= self._ends[-1] or not view:
            return 0
        begin = self._behind - len(self._rest)
        if self._stream is None or not begin <= self._at <= self._behind + _SKIPPED:
            self._stream, self._behind, self._rest = self.chunks(self._at, self._ends[-1]), self._at, b""
        while self._behind <= self._at:
            self._rest = next(self._stream)
            self._behind += len(self._rest)
        self._rest = self._rest[len(self._rest) - (self._behind - self._at) :]
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._at += count
        return count

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to ``stop``, whatever parts they lie in; errors as of `readinto`."""
        for part, end in zip(self._parts, self._ends, strict=True):
            begin = end - part.size
            if start < end and begin < stop:
                yield from _chunks(part, max(start - begin, 0), min(stop, end) - begin)


def read_range(parts: Sequence[HubFile], start: int, stop: int) -> bytes:
    """Return the bytes from ``start`` to ``stop`` of files one behind the other; errors as of `HubReader.readinto`."""
    return b"".join(HubReader(parts).chunks(start, stop))


def _chunks(file: HubFile, start: int, stop: int) -> Iterator[bytes]:
    at, failures = start, 0
    while at < stop:
        try:
            with _opened(file, at, stop) as response:
                # Not in chunks of a size: up to one of what had arrived is lost where a connection is cut.
                for chunk in response.iter_raw():
                    if at + len(chunk) > stop:
                        raise _changed(file, "it sends more than was asked for")
                    at, failures = at + len(chunk), 0
                    yield chunk
            if at < stop:
                raise ConnectionResetError(f"the answer ended at byte {at:,}")
        except M2KRError:
            raise
        except Exception as error:  # of a network, the HTTP client raises dozens of kinds
            failures += 1
            if not _may_pass(file, error):
                raise HubError(
                    f"the hub does not give {file} ({why_unreachable(error)}). Run the same command again; if that "
                    "does not help, download the file and name its folder."
                ) from error
            if failures > _TRIES:
                raise HubUnreachableError(
                    f"{file} could not be read on from byte {at:,} ({why_unreachable(error)}). Run the same command "
                    "again when the hub can be reached: it goes on from there."
                ) from error
            time.sleep(_WAIT * 2 ** (failures - 1))


_locations: dict[str, str] = {}
# Where the hub has sent us for the address of a file. Being sent there costs a request, whose number is limited.


@contextmanager
def _opened(file: HubFile, start: int, stop: int) -> Iterator[Any]:
    """Ask for a part of a file, and yield the answer when it is of the file that was listed."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
        http_stream_backoff,
    )

    url = _address(file)
    known = _locations.get(url)
    headers = {} if known else build_hf_headers()
    headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    with http_stream_backoff(
        "GET",
        known or url,
        headers=headers,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        base_wait_time=_WAIT,
        retry_on_exceptions=(),  # whoever reads takes it up
        retry_on_status_codes=(408, 429, 500, 502, 503, 504),
    ) as response:
        hf_raise_for_status(response)
        answers = [*response.history, response]
        told = next((answer.headers[name] for name in _ETAGS for answer in answers[:1] if name in answer.headers), None)
        if not known and told is not None and told.removeprefix("W/").strip('"') != file.etag:
            raise _changed(file, f"its ETag is {told}, not {file.etag}")
        if response.status_code == 206:
            told = response.headers.get("Content-Range", "")
            if not re.fullmatch(rf"bytes {start}-\d+/{file.size}", told):
                raise _changed(file, f"it is told as {told!r}, and has {file.size:,} bytes in the listing")
        elif (start, stop) != (0, file.size) or response.headers.get("Content-Length") != str(file.size):
            raise HubError(
                f"{file} cannot be read in part: {response.url.host} does not answer range requests. Download the file "
                "and name its folder."
            )
        if response.history and response.url.netloc != response.history[0].url.netloc:
            _locations[url] = str(response.url)
        yield response


_ETAGS = ("X-Linked-ETag", "ETag")
# The hub tells the file's own, where it sends us elsewhere, in the first of them.


def _changed(file: HubFile, how: str) -> HubError:
    return HubError(
        f"{file} is no longer the file that the hub lists at {file.commit[:7]}: {how}. Nothing of it was kept. Run the "
        "same command again; if that does not help, download the file and name its folder."
    )


def _may_pass(file: HubFile, error: Exception) -> bool:
    """Whether asking again may help: not where the hub has answered, nor where it may not be asked."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if _locations.pop(_address(file), None) is not None:  # an address to which the hub has sent us holds for a while
        return True
    return not isinstance(error, HfHubHTTPError | OfflineModeIsEnabled)


def _address(file: HubFile) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(file.repository, file.path, repo_type="dataset", revision=file.commit)
