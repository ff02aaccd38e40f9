"""Pictures of a dataset of the hub, in archives: only those asked for are fetched, into the cache of this program.

How much has to be read for them is said before. `m2kr.images.hub_archives` says how they are read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from m2kr.common.hub import REMEDY, HubError, hub_cache, hub_listing, told_bytes
from m2kr.common.locks import exclusive
from m2kr.common.progress import say
from m2kr.images.decode import ImageFile
from m2kr.images.hub_archives import HubArchive, archives_of, fetch_members, list_zip, read_through
from m2kr.images.zip_members import Member
from m2kr.tasks import Task

UNASKED_BYTES = 2_000_000_000
"""What is read at most where the hub was not asked for by name, but because nothing else was there."""


@dataclass
class Plan:
    """What has to be read for pictures.

    Attributes:
        wanted: how many are asked for, each once.
        members: archive -> members of it that are not kept yet.
        passes: tars that are to be read through for the rest, smallest first.
        rest: paths that are in no list of members, each with its spellings.
    """

    wanted: int = 0
    members: dict[HubArchive, list[Member]] = field(default_factory=dict)
    passes: list[HubArchive] = field(default_factory=list)
    rest: dict[str, Sequence[str]] = field(default_factory=dict)

    @property
    def found_bytes(self) -> int:
        """Bytes of the members."""
        return sum(member.packed for members in self.members.values() for member in members)

    @property
    def to_read(self) -> int:
        """Bytes to be read: of the members, and at most of the tars."""
        return self.found_bytes + sum(archive.size - archive.begin for archive in self.passes)


class HubImages:
    """The pictures of a task in a dataset of the hub. Calling it with a path finds one that `fetch` has fetched.

    Args:
        repository: the dataset's id.
        task: whose pictures; they are looked for in the archives below its folder, `Task.hub_images`.
        asked: whether the user named the hub, and so agrees to what is read.
    """

    def __init__(self, repository: str, task: Task, *, asked: bool = True) -> None:
        self.repository, self.task, self.asked = repository, task, asked
        self._archives: list[HubArchive] = []
        self._commit = ""
        self._unreachable = ""

    def __str__(self) -> str:
        return f"{self.source} ({self.task.hub_images})"

    @property
    def source(self) -> str:
        """The dataset's id, and the commit that was read, as results name it."""
        return self.repository + (f"@{self._commit}" if self._commit else "")

    def __call__(self, path: str) -> ImageFile | None:
        """Return a picture that is in the cache."""
        for archive in self._archives:
            for name in archive.names(path, self.task.image_root):
                size = archive.store.picture_size(name)
                if size is not None:
                    return ImageFile(f"{archive}, member {name}", size, partial(archive.store.picture, name))
        return None

    def check_unchanged(self) -> None:
        """Do nothing: what is kept belongs to one state of the archives, whatever the hub has by now."""

    def plan(self, paths: Mapping[str, Sequence[str]], *, quiet: bool = False) -> Plan:
        """Return what has to be read for pictures; lists of members that zips have are fetched for that.

        Args:
            paths: ``img_path`` -> all ways in which it may be spelled.
            quiet: say nothing.

        Raises:
            HubError: the hub has no such dataset or folder, or cannot be reached; an archive is damaged.
        """
        if not self._archives:
            self._list(quiet=quiet)
        plan = Plan(wanted=len(paths))
        plan.rest = absent = self._not_kept(paths)
        if not absent:
            return plan
        for archive in self._archives:
            if archive.is_zip and not archive.store.whole:
                self._reachable(absent)
                list_zip(archive)
            found = {path: member for path, ways in plan.rest.items() if (member := self._member(archive, ways))}
            if found and not archive.is_packed:
                plan.members[archive] = list(found.values())
                plan.rest = {path: ways for path, ways in plan.rest.items() if path not in found}
        if plan.rest:
            plan.passes = [each for each in self._archives if not each.is_zip and self._may_hold(each, plan.rest)]
        if plan.to_read:
            self._reachable(absent)
        return plan

    def fetch(self, paths: Mapping[str, Sequence[str]], *, quiet: bool = False) -> None:
        """Fetch pictures into the cache, as far as the hub has them; how much is read for that is said before.

        After a kill or a cut connection, the next call goes on where this was. While another process fetches pictures
        of the task, this waits.

        Args:
            paths: as of `plan`.
            quiet: no progress, no notices.

        Raises:
            HubError: as `plan`; or more would be read than `UNASKED_BYTES` and nobody asked for it.
            M2KRError: the disk is full.
        """
        if not self.plan(paths, quiet=quiet).to_read:
            return
        home = hub_cache(self.repository)
        with exclusive(
            home / f".{self.task.hub_images}.lock", f"{home / self.task.hub_images}", wait=True, quiet=quiet
        ):
            plan = self.plan(paths, quiet=quiet)  # another process may have fetched them just now
            check_asked([(self, plan)])
            self._announce(plan, home, quiet=quiet)
            for archive, members in plan.members.items():
                fetch_members(archive, members, quiet=quiet)
            for archive in plan.passes:
                if not plan.rest:
                    break
                read_through(archive, plan.rest, self.task.image_root, quiet=quiet)
                plan.rest = self._not_kept(plan.rest)
                # A link in a tar means a member that was passed by.
                linked = [member for ways in plan.rest.values() if (member := self._member(archive, ways))]
                if linked and not archive.is_packed:
                    fetch_members(archive, linked, quiet=quiet)
                    plan.rest = self._not_kept(plan.rest)

    def _not_kept(self, paths: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        return {path: ways for path, ways in paths.items() if not any(self(way) for way in ways)}

    def _list(self, *, quiet: bool) -> None:
        listing = hub_listing(self.repository, self.task.hub_images)
        self._archives = archives_of(listing, quiet=quiet)
        self._commit, self._unreachable = listing.commit, listing.unreachable
        if not self._archives:
            raise HubError(
                f"{listing} has no .zip, .tar or .tar.gz archive in its folder {self.task.hub_images}, where the "
                f"pictures of {self.task.key} are looked for. Name their folder with --images."
            )

    def _member(self, archive: HubArchive, ways: Sequence[str]) -> Member | None:
        names = (name for way in ways for name in archive.names(way, self.task.image_root))
        return next((member for name in names if (member := archive.store.member(name))), None)

    def _may_hold(self, archive: HubArchive, rest: Mapping[str, Sequence[str]]) -> bool:
        """Whether reading on in a tar may find something: not where all its members are known, and none is wanted."""
        return not archive.store.whole or (
            archive.is_packed and any(self._member(archive, ways) for ways in rest.values())
        )

    def _reachable(self, paths: Mapping[str, Sequence[str]]) -> None:
        if self._unreachable:
            raise HubError(
                f"{len(paths):,} pictures of {self.task.key} are not in the cache, the first is {next(iter(paths))}, "
                f"and the hub cannot be asked for them ({self._unreachable}). {REMEDY}"
            )

    def _announce(self, plan: Plan, home: Path, *, quiet: bool) -> None:
        absent = sum(map(len, plan.members.values())) + len(plan.rest)
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
        if plan.found_bytes > free:
            raise HubError(
                f"{home} has {told_bytes(free)} free, and the pictures of {self.task.key} take "
                f"{told_bytes(plan.found_bytes)}. Free some space, or set M2KR_CACHE to a folder with more."
            )
        say(
            f"{self.task.key}: fetching {absent:,} of {plan.wanted:,} pictures from {self.repository}"
            f"@{self._commit[:7]}: {self.told(plan)}. Only the pictures are kept, in {home}, which has "
            f"{told_bytes(free)} free",
            quiet=quiet,
        )

    def told(self, plan: Plan) -> str:
        """Return what is to be read, in words."""
        parts = []
        if plan.members:
            parts.append(f"{told_bytes(plan.found_bytes)} of {', '.join(each.name for each in plan.members)}")
        if plan.passes:
            size = sum(archive.size - archive.begin for archive in plan.passes)
            names = ", ".join(each.name for each in plan.passes)
            parts.append(f"for {len(plan.rest):,} of them up to {told_bytes(size)} have to be read once, of {names}")
        return "; ".join(parts)


def check_asked(plans: Iterable[tuple[HubImages, Plan]]) -> None:
    """Refuse plans that together read more than `UNASKED_BYTES`, as far as nobody asked for the hub.

    Raises:
        HubError: they do; it says how much each reads.
    """
    unasked = [(images, plan) for images, plan in plans if not images.asked and plan.to_read]
    size = sum(plan.to_read for _, plan in unasked)
    if size > UNASKED_BYTES:
        each = "; ".join(f"{images.task.key}: {images.told(plan)}" for images, plan in unasked)
        raise HubError(
            f"no pictures are here, and to fetch them from {unasked[0][0].repository} takes up to {told_bytes(size)} "
            f"({each}). Pass --images hub to do so, or name their folder with --images."
        )
