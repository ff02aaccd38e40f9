"""A model hub on this machine, as far as huggingface_hub asks it for datasets and models; bytes fetched are counted.

It answers on two ports: the hub itself, and the store to which it sends whoever reads a large file, as the real one
does. Large files are told from small ones by their names.

    with HubServer() as hub:
        hub.publish("owner/name", {"OKVQA/images.zip": content})
        ...  # a client with HF_ENDPOINT=hub.endpoint
        assert hub.sent["OKVQA/images.zip"] < 10_000
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]

LARGE = (".parquet", ".zip", ".tar", ".tar.gz", ".tgz", ".bin", ".safetensors")
_PAGE = 7
# Entries of a listing that are sent at once.


def _is_large(path: str) -> bool:
    return re.sub(r"\.\d{3}$", "", path).endswith(LARGE)


def etag_of(path: str, content: bytes) -> str:
    """The hash by which the hub names a file: SHA-256 of a large one, that of git of a small one."""
    if _is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def files_in(folder: Path) -> Files:
    """The files below a folder, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class HubServer:
    """The hub. It is started by ``with``; all of its attributes may be changed while it runs.

    Attributes:
        sent: path of a file in its repository -> bytes of it that were sent.
        asked: requests, as "GET /path", in order; of the store "GET store/path".
        cut: path -> bytes of the next answer after which the connection is cut, once.
        fail: path -> statuses of the next requests to the hub for it.
        token: what a request has to bring; none without one.
        ranges: whether parts of files can be asked for.
    """

    sent: Counter[str] = field(default_factory=Counter)
    asked: list[str] = field(default_factory=list)
    cut: dict[str, list[int]] = field(default_factory=dict)
    fail: dict[str, list[int]] = field(default_factory=dict)
    token: str | None = None
    ranges: bool = True

    def __post_init__(self) -> None:
        self._commits: dict[str, dict[str, Files]] = {}
        self._revisions: dict[str, dict[str, str]] = {}
        self._links = 0
        self._stack = ExitStack()
        self.lock = threading.Lock()

    def __enter__(self) -> Self:
        self.endpoint, self.store = (self._serve(kind) for kind in (_Hub, _Store))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _serve(self, kind: type[_Answer]) -> str:
        server = _Server(("127.0.0.1", 0), type(kind.__name__, (kind,), {"hub": self}))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self._stack.callback(server.server_close)
        self._stack.callback(thread.join)
        self._stack.callback(server.shutdown)
        return f"http://127.0.0.1:{server.server_address[1]}"

    def publish(self, dataset: str, files: Mapping[str, bytes] | Path, revision: str = "main") -> str:
        """Make a commit with these files the newest of a revision, and return its hash. Older ones stay.

        A model is published alike: what is asked for as one is looked for among all.
        """
        content = files_in(files) if isinstance(files, Path) else dict(files)
        told = json.dumps(sorted((path, etag_of(path, data)) for path, data in content.items()))
        commit = hashlib.sha1(f"{dataset} {told}".encode()).hexdigest()
        self._commits.setdefault(dataset, {})[commit] = content
        self._revisions.setdefault(dataset, {})[revision] = commit
        return commit

    def expire_links(self) -> None:
        """Let the store refuse the addresses to which the hub has sent anybody."""
        self._links += 1

    def forget(self) -> None:
        """Count anew."""
        self.sent.clear()
        self.asked.clear()

    def environment(self, home: Path) -> dict[str, str]:
        """The variables by which a client in another process asks this hub, with a cache of its own."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_ETAG_TIMEOUT": "60"}

    def commit_of(self, dataset: str, revision: str) -> str | None:
        """The commit that a name of a revision, or a hash, means."""
        known = self._revisions[dataset].get(revision, revision)
        return known if known in self._commits[dataset] else None

    def files(self, dataset: str, commit: str) -> Files | None:
        """The files of a commit; None of a dataset that is not there."""
        return self._commits[dataset][commit] if dataset in self._commits else None

    def has(self, dataset: str) -> bool:
        """Whether a dataset is there."""
        return dataset in self._commits

    def link(self, dataset: str, commit: str, path: str) -> str:
        """The address of a file in the store, for a while."""
        return f"{self.store}/{self._links}/{dataset}/{commit}/{path}"

    def is_valid(self, link: int) -> bool:
        """Whether an address given out then still is."""
        return link == self._links


class _Server(ThreadingHTTPServer):
    """A server to which it is no news that clients leave."""

    daemon_threads = True

    def handle_error(self, *given: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*given)


class _Answer(BaseHTTPRequestHandler):
    """What both share: sending files in part, and counting."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, **headers: str) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", X_Error_Code=code)

    def _send_file(self, path: str, content: bytes, **headers: str) -> None:
        status, start, stop = 200, 0, len(content)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found and self.hub.ranges:
            start, stop = int(found[1]), min(int(found[2] or stop - 1) + 1, stop)
            if start >= len(content):
                self._send(416, Content_Range=f"bytes */{len(content)}")
                return
            status, headers["Content_Range"] = 206, f"bytes {start}-{stop - 1}/{len(content)}"
        body, cuts = content[start:stop], self.hub.cut.get(path)
        self.send_response(status)
        for name, value in {**headers, "Accept_Ranges": "bytes", "Content_Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = cuts.pop(0) if cuts else None
        sent = body if cut is None else body[:cut]
        with self.hub.lock:
            self.hub.sent[path] += len(sent)
        with suppress(ConnectionError):  # the client has enough
            self.wfile.write(sent)
            self.wfile.flush()
        if cut is not None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)


class _Hub(_Answer):
    """The hub itself."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        address = urlsplit(self.path)
        self.hub.asked.append(f"{self.command} {unquote(address.path)}")
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._error(401, "RepoNotFound")
        elif found := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", address.path):
            self._resolve(*map(unquote, found.groups()))
        elif found := re.fullmatch(
            r"/api/(?:datasets|models)/([^/]+/[^/]+?)(?:/(tree|revision)/([^/]+)(?:/(.+))?)?", address.path
        ):
            dataset, what, revision, folder = (unquote(part or "") for part in found.groups())
            if not self.hub.has(dataset):
                self._error(404, "RepoNotFound")
            elif (commit := self.hub.commit_of(dataset, revision or "main")) is None:
                self._error(404, "RevisionNotFound")
            elif what == "tree":
                self._tree(dataset, commit, folder, address.query)
            else:
                files = self.hub.files(dataset, commit) or {}
                siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
                self._json({"id": dataset, "sha": commit, "siblings": siblings})
        else:
            self._error(404, "EntryNotFound")

    def _resolve(self, dataset: str, revision: str, path: str) -> None:
        commit = self.hub.commit_of(dataset, revision) if self.hub.has(dataset) else None
        if commit is None:
            self._error(404, "RevisionNotFound" if self.hub.has(dataset) else "RepoNotFound")
            return
        content = (self.hub.files(dataset, commit) or {}).get(path)
        if statuses := self.hub.fail.get(path):
            self._error(statuses.pop(0), "EntryNotFound")
        elif content is None:
            self._error(404, "EntryNotFound")
        elif _is_large(path):
            told = {"X_Linked_ETag": f'"{etag_of(path, content)}"', "X_Linked_Size": str(len(content))}
            self._send(302, X_Repo_Commit=commit, Location=self.hub.link(dataset, commit, path), **told)
        else:
            self._send_file(path, content, X_Repo_Commit=commit, ETag=f'"{etag_of(path, content)}"')

    def _tree(self, dataset: str, commit: str, folder: str, query: str) -> None:
        files = self.hub.files(dataset, commit) or {}
        asked = parse_qs(query)
        below = f"{folder}/" if folder else ""
        paths = sorted(path for path in files if path.startswith(below))
        if folder and not paths:
            self._error(404, "EntryNotFound")
            return
        entries: dict[str, dict[str, Any]] = {}
        for path in paths:
            parents = path[len(below) :].split("/")[:-1]
            for depth in range(1, len(parents) + 1):
                name = below + "/".join(parents[:depth])
                entries[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
            content, etag = files[path], etag_of(path, files[path])
            entry: dict[str, Any] = {"type": "file", "path": path, "oid": etag[:40], "size": len(content)}
            if _is_large(path):
                entry["lfs"] = {"oid": etag, "size": len(content), "pointerSize": 134}
            entries[path] = entry
        if asked.get("recursive", ["false"])[0].lower() != "true":
            entries = {path: entry for path, entry in entries.items() if "/" not in path[len(below) :]}
        first = int(asked.get("cursor", ["0"])[0])
        shown = list(entries.values())[first : first + _PAGE]
        more = {}
        if first + _PAGE < len(entries):
            base = self.path.partition("&cursor=")[0]
            more = {"Link": f'<{self.hub.endpoint}{base}&cursor={first + _PAGE}>; rel="next"'}
        self._json(shown, **more)


class _Store(_Answer):
    """Where large files are."""

    def do_GET(self) -> None:
        found = re.fullmatch(r"/(\d+)/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)", unquote(urlsplit(self.path).path))
        assert found
        link, dataset, commit, path = found.groups()
        self.hub.asked.append(f"{self.command} store/{path}")
        if "Authorization" in self.headers:
            self._error(400, "TokenSentAway")
        elif not self.hub.is_valid(int(link)):
            self._error(403, "Expired")
        else:
            content = (self.hub.files(dataset, commit) or {})[path]
            self._send_file(path, content, ETag=f'"{hashlib.md5(content).hexdigest()}"')

    def do_HEAD(self) -> None:
        self.do_GET()
