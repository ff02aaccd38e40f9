"""Tables of a benchmark on the hub: only the shards of the tasks and the split asked for are fetched.

They go where huggingface_hub keeps what it downloads (``HF_HOME``, as a rule ``~/.cache/huggingface``), so that what
other programs have fetched is not fetched again.
"""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from m2kr.common.files import not_written
from m2kr.common.hub import (
    REMEDY,
    HubError,
    HubFile,
    HubListing,
    HubUnreachableError,
    hub_listing,
    is_hub_id,
    told_bytes,
    why_unreachable,
)
from m2kr.common.progress import say
from m2kr.errors import REMEDIES, M2KRError, system_error
from m2kr.formats.manifest import MANIFEST
from m2kr.formats.shards import choose_tasks
from m2kr.tasks import HUB_ID, TASKS, Task, parse_tasks

CONVERTED = "refs/convert/parquet"
"""Branch on which the hub keeps the tables of datasets that are published in another form."""

_TRIES = 5


def local_folder(
    data: str | Path, names: str, split: str, among: Iterable[str] = TASKS, *, quiet: bool = False
) -> Path:
    """Return the folder of a benchmark; of one on the hub, after its tables of some tasks were fetched.

    What is fetched, and how much it is, is said before. Where the hub cannot be reached, what is in the cache goes for
    it.

    Args:
        data: folder, or a dataset id of the hub.
        names: of tasks, comma-separated, or "all" for those that are there.
        split: of the queries; its passages are fetched with it.
        among: keys of the tasks to choose from.
        quiet: say nothing.

    Raises:
        M2KRError: there is no such folder; the hub has no such dataset, or no task asked for in it, or cannot be
            reached and the cache lacks something; the disk is full.
    """
    folder = Path(data)
    if folder.exists():
        return folder
    name = str(data)
    if not is_hub_id(name):
        # Asking the hub about a folder that was mistyped takes half a minute where it cannot be reached.
        raise M2KRError(
            f"{name} is no folder here, and no dataset id of the hub, which is spelled owner/name. "
            f"Build it with python -m m2kr.build, or download {HUB_ID} and pass its folder."
        )
    try:
        listing = hub_listing(name)
    except HubError as error:
        if isinstance(error, HubUnreachableError) and (cached := _cached(name)) is not None:
            return cached
        raise type(error)(f"{name} is no folder here, and {error}") from error
    there = {key: files for key in among if (files := _shards(listing, TASKS[key], split))}
    if not there and not listing.unreachable:
        with suppress(HubError):  # the hub has not converted all
            listing = hub_listing(name, revision=CONVERTED)
            there = {key: files for key in among if (files := _shards(listing, TASKS[key], split))}
    if not there:
        raise HubError(f"the dataset {name} holds no task with a {split} split. Name another, or a folder.")
    tasks = parse_tasks(names, list(there))
    if lacking := [task.key for task in tasks if task.key not in there]:
        raise HubError(f"{name} has no {split} split of {', '.join(lacking)}; it has one of {', '.join(there)}.")
    manifest = [file for file in listing.files if file.path == MANIFEST]
    return _fetched(listing, [*(file for task in tasks for file in there[task.key]), *manifest], tasks, quiet=quiet)


def local_tasks(
    data: str | Path, names: str, split: str, among: Sequence[str] = tuple(TASKS), *, quiet: bool = False
) -> tuple[Path, list[Task]]:
    """Return the folder of a benchmark as `local_folder`, and the tasks in it as `m2kr.formats.shards.choose_tasks`.

    Raises:
        M2KRError: as these.
    """
    folder = local_folder(data, names, split, among, quiet=quiet)
    return folder, choose_tasks(names, folder, split, among)


def hub_source(folder: Path) -> str:
    """Return the dataset and the commit of a folder in the hub's cache, as ``owner/name@commit``; else nothing."""
    found = re.fullmatch(r"datasets--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})", "/".join(folder.absolute().parts[-3:]))
    return f"{found[1]}/{found[2]}@{found[3]}" if found else ""


def _shards(listing: HubListing, task: Task, split: str) -> list[HubFile]:
    """Return the shards of both tables of a split; none unless it has both."""
    found: list[HubFile] = []
    for config, name in ((task.data_config, split), (task.passages_config, f"{split}_passages")):
        pattern = rf"{re.escape(config)}/{re.escape(name)}(-[^/]*|/[0-9]+)\.parquet"
        table = [file for file in listing.files if re.fullmatch(pattern, file.path)]
        if not table:
            return []
        found += table
    return found


def _fetched(listing: HubListing, files: Sequence[HubFile], tasks: Sequence[Task], *, quiet: bool) -> Path:
    """Return the folder of a snapshot of the hub's cache, with these files in it."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    def lacking() -> list[HubFile]:
        return [
            file
            for file in files
            if not isinstance(
                try_to_load_from_cache(listing.repository, file.path, repo_type="dataset", revision=listing.commit), str
            )
        ]

    what = ", ".join(task.key for task in tasks)
    absent = lacking()
    if absent and listing.unreachable:
        raise HubError(
            f"{what} of {listing.repository} could not be loaded from the hub ({listing.unreachable}), and the cache "
            f"lacks {len(absent)} of {len(files)} files, the first is {absent[0].path}. {REMEDY}"
        )
    blobs = _home() / repo_folder_name(repo_id=listing.repository, repo_type="dataset") / "blobs"
    if new := [file for file in absent if not (blobs / file.etag).exists()]:
        size = sum(file.size for file in new)
        say(f"fetching {what} of {listing}: {len(new)} files, {told_bytes(size)}, into {_home()}", quiet=quiet)
    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
    for tried in range(1, _TRIES + 1):
        try:
            found = snapshot_download(
                listing.repository,
                repo_type="dataset",
                revision=listing.commit,
                allow_patterns=[glob.escape(file.path) for file in files],
                local_files_only=not absent,
            )
            return Path(found)
        except Exception as error:  # of a network, huggingface_hub and its HTTP client raise dozens of kinds
            if system_error(error) in REMEDIES:
                raise not_written(_home(), error) from error
            left = lacking()
            if tried == _TRIES or (len(left) == len(absent) and tried > 1):
                raise HubError(
                    f"{what} of {listing} could not be loaded from the hub ({why_unreachable(error)}); "
                    f"{len(files) - len(left)} of {len(files)} files are in {_home()}. Run the same command again: it "
                    "goes on with the others."
                ) from error
            absent = left
    raise AssertionError  # the last try returns or raises


def _cached(name: str) -> Path | None:
    """Return what another program has fetched of a dataset, as far as it is there."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=[], local_files_only=True))
    except Exception:  # it has fetched nothing
        return None


def _home() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
