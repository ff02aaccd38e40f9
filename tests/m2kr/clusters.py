"""A cluster without Ray, for tests of what is done by other processes."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from m2kr.common.cluster import Cluster, Job
from m2kr.common.ray_actor import made
from tests.m2kr.evaluating import kill


class Here(Cluster):
    """Does jobs in this process, the last of them first, and dies after the first few."""

    backwards = True

    def __init__(self, dies_after: int = 1 << 30) -> None:
        super().__init__("here")
        self.dies_after = dies_after

    def start(self, target: str, **given: Any) -> dict[str, Any]:
        self.held = made(target, given)
        facts: dict[str, Any] = self.held.facts()
        return facts

    def done(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Any]]:
        given = list(jobs)
        for number, job in enumerate(reversed(given) if self.backwards else given):
            if job.method in ("best", "answer") and number >= self.dies_after:
                kill()
            yield job, getattr(self.held, job.method)(*job.given, **job.named)

    def shared(self, value: Any) -> Any:
        return value

    @property
    def nodes(self) -> int:
        return 1

    def told(self) -> dict[str, Any]:
        return {"nodes": 1}
