"""Work on several GPUs or machines: Ray starts our processes there, this hands them jobs, and does lost ones again.

Only this module and `m2kr.common.ray_actor` know of Ray, an extra that is imported when a cluster is entered.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from m2kr import __version__
from m2kr.common.progress import say
from m2kr.errors import M2KRError, first_line

_POLL = 0.2
# Seconds between two looks: Ctrl-C is acted on between them.
_PATIENCE = 120.0
# Seconds that a cluster may take to find a place for the first of our processes, or for one after all have died.
_DEATHS = 3
# Processes that a job may end before it is given up: by then it is the job, not a machine.
_STORE_BYTES = 200_000_000
# Of the objects that a local Ray passes between processes. More go to the disk.
_SWEEP = """
import os, shutil, sys, time
sys.stdin.read()  # ends when the other process does
gone = 0
for _ in range(120):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    gone = 0 if os.path.exists(sys.argv[1]) else gone + 1
    if gone == 2:
        break
    time.sleep(0.5)
"""
_SOCKET_PATHS = 30
# Letters of the longest folder below which Ray can make its sockets, whose paths the system limits to 107.


@dataclass(frozen=True)
class Job:
    """A call of a method of the object that each process holds.

    Attributes:
        name: of the job, for messages.
        method: which method.
        given: its arguments; one that `Cluster.shared` made stands for what was shared.
        named: arguments by keyword.
    """

    name: str
    method: str
    given: Sequence[Any] = ()
    named: dict[str, Any] = field(default_factory=dict)


class Cluster:
    """A Ray cluster, entered as a context; what it started has ended when it is left.

    Args:
        address: "local" starts one on this machine; "auto" takes the one that runs here, and ``HOST:PORT`` any.
        actors: processes of ours; None: as many as there is room for.
        cpus: CPU cores that each takes.
        gpus: GPUs that each takes.
        verbose: show what Ray logs.
        quiet: no notices.

    Raises:
        M2KRError: Ray is not installed, or there is no cluster.
    """

    def __init__(
        self,
        address: str,
        *,
        actors: int | None = None,
        cpus: int = 1,
        gpus: float = 0,
        verbose: bool = False,
        quiet: bool = False,
    ) -> None:
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.verbose, self.quiet = verbose, quiet
        self._wanted = actors
        self._folder: Path | None = None
        self._sweeper: subprocess.Popen[bytes] | None = None
        self._ray: Any = None
        self._target: tuple[str, dict[str, Any]] = ("", {})
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}  # what tells that it has begun -> process
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it would warn of a later version of itself
        if not self.verbose:
            os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or it prints what died to our standard output
        try:
            import ray
        except ImportError as error:
            raise M2KRError(f'--ray needs Ray ({error}): pip install "m2kr[ray]".') from error
        self._ray = ray
        given: dict[str, Any] = {"log_to_driver": self.verbose}
        if not self.verbose:
            given["logging_level"] = "CRITICAL"
        if self.address == "local":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or it would keep one in the home folder
            self._folder, self._sweeper = _short_folder()
            given |= {"include_dashboard": False, "_temp_dir": str(self._folder), "object_store_memory": _STORE_BYTES}
            if self._wanted is not None:
                given["num_cpus"] = max(os.cpu_count() or 1, self._wanted * self.cpus)
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(self.address, **given)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            self._leave()
            start = "Start one with `ray start --head`, or pass --ray local." if self.address != "local" else ""
            raise M2KRError(f"--ray {self.address}: there is no cluster: {first_line(error)}. {start}") from error
        except BaseException:
            self._leave()
            raise
        finally:
            with suppress(ValueError, TypeError):  # of another thread than the main one
                signal.signal(signal.SIGTERM, before)  # Ray has put its own in the place of ours
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._idle, self._starting = [], {}
        with suppress(Exception):  # which ends all our processes, of other machines too
            self._ray.shutdown()
        if self._sweeper is not None and self._sweeper.stdin is not None:
            self._sweeper.stdin.close()

    def start(self, target: str, **given: Any) -> dict[str, Any]:
        """Start the processes, each of which makes an object; return what the first of them says of it.

        Args:
            target: the object's class, "module:name"; it has a method ``facts``.
            **given: its arguments, plain values.

        Raises:
            M2KRError: there is no room for a process, or the object cannot be made on a node, which is named.
        """
        self._target = (target, given)
        count = self._wanted if self._wanted is not None else self._room()
        if not count:
            raise M2KRError(f"--ray {self.address}: {self._no_room()}")
        self.actors = count
        self._begin()
        self._await_one()
        return self._facts

    @property
    def nodes(self) -> int:
        """How many machines there are."""
        return len(self._nodes())

    def told(self) -> dict[str, Any]:
        """Return what a result file says of it."""
        return {
            "version": version("ray"),
            "nodes": self.nodes,
            "actors": self.actors,
            "cpus": self.cpus,
            "gpus": self.gpus,
        }

    def shared(self, value: Any) -> Any:
        """Return what stands for a value as an argument of jobs; each machine gets it once."""
        return self._ray.put(value)

    def one(self, job: Job) -> Any:
        """Return the result of one job.

        Raises:
            M2KRError: as `done`.
        """
        ((_, result),) = self.done([job])
        return result

    def in_order(self, jobs: Iterable[Job]) -> Generator[Any]:
        """Yield the results of jobs in their order; those that are ready earlier wait.

        Raises:
            M2KRError: as `done`.
        """
        numbers: dict[int, int] = {}

        def numbered() -> Iterator[Job]:
            for number, job in enumerate(jobs):
                numbers[id(job)] = number
                yield job

        ready: dict[int, Any] = {}
        turn = 0
        for job, result in self.done(numbered()):
            ready[numbers.pop(id(job))] = result
            while turn in ready:
                yield ready.pop(turn)
                turn += 1

    def done(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Any]]:
        """Yield jobs with their results as they come. A job whose process or machine has died is done again.

        Jobs are taken one by one, when there is a process to do them.

        Raises:
            M2KRError: a job cannot be done, for the reason it gives; it ends every process that does it; all processes
                have died, and there is no room for others.
        """
        coming, again = iter(jobs), deque[Job]()
        busy: dict[Any, tuple[Any, Job]] = {}  # result -> process that makes it
        deaths: dict[int, int] = {}
        more = True
        try:
            while True:
                while self._idle and (again or more):
                    job = again.popleft() if again else next(coming, None)
                    if job is None:
                        more = False
                        break
                    process = self._idle.pop()
                    busy[process.call.remote(job.method, *job.given, **job.named)] = (process, job)
                if not busy and not again and not more:
                    return
                self._begin(len(busy))
                if not busy:
                    self._await_one()
                    continue
                ready, _ = self._ray.wait([*busy, *self._starting], timeout=_POLL)
                for result in ready:
                    if result in self._starting:
                        self._take(result)
                        continue
                    process, job = busy.pop(result)
                    try:
                        well, value, node = self._ray.get(result)
                    except self._lost() as error:
                        with suppress(Exception):  # it lives where its machine, or the result alone, was lost
                            self._ray.kill(process)
                        deaths[id(job)] = deaths.get(id(job), 0) + 1
                        if deaths[id(job)] >= _DEATHS:
                            raise M2KRError(
                                f"{job.name}: {_DEATHS} processes ended over it, most likely for lack of memory; of "
                                f"the last: {first_line(error)} Pass a smaller --batch-size, or fewer --ray-actors."
                            ) from error
                        say(f"{job.name}: its process or machine is gone, so it is done again", quiet=self.quiet)
                        again.append(job)
                        continue
                    self._idle.append(process)
                    if not well:
                        raise M2KRError(self._of_node(node, value))
                    deaths.pop(id(job), None)
                    yield job, value
        finally:
            for process, _ in busy.values():  # nobody waits for what it does
                with suppress(Exception):
                    self._ray.kill(process)

    def _lost(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return (errors.RayActorError, errors.ObjectLostError, errors.OutOfMemoryError, errors.NodeDiedError)

    def _begin(self, busy: int = 0) -> None:
        """Start processes in the place of those that lack, beside so many that are busy."""
        from m2kr.common import ray_actor

        for _ in range(self.actors - busy - len(self._idle) - len(self._starting)):
            self._ray.cloudpickle.register_pickle_by_value(ray_actor)
            try:
                kind = self._ray.remote(ray_actor.Host)
                process = kind.options(num_cpus=self.cpus, num_gpus=self.gpus, scheduling_strategy="SPREAD").remote()
            finally:
                self._ray.cloudpickle.unregister_pickle_by_value(ray_actor)
            self._starting[process.begin.remote(__version__, str(Path.cwd()), *self._target)] = process

    def _take(self, begun: Any) -> None:
        """Take in a process that has begun, unless it has died."""
        process = self._starting.pop(begun)
        try:
            well, told, node = self._ray.get(begun)
        except self._lost():
            return
        if not well:
            raise M2KRError(self._of_node(node, told))
        self._facts = self._facts or told
        here, there = (facts["environment"]["versions"] for facts in (self._facts, told))
        if other := [name for name in here if there.get(name) != here[name]]:
            say(
                f"node {node} has another {', '.join(other)} than others: figures may differ in their last digits",
                quiet=self.quiet,
            )
        self._idle.append(process)

    def _of_node(self, node: str, told: str) -> str:
        return told if self.address == "local" else f"node {node}: {told}"

    def _await_one(self) -> None:
        """Wait until one process has begun.

        Raises:
            M2KRError: there is no room for one, and for some time none comes.
        """
        since, begun = time.monotonic(), 0
        while not self._idle:
            self._begin()
            ready, _ = self._ray.wait(list(self._starting), timeout=_POLL)
            for each in ready:
                self._take(each)
            begun += len(ready)
            if begun >= _DEATHS * self.actors and not self._idle:
                raise M2KRError(f"--ray {self.address}: {begun} processes ended while they began, for lack of memory?")
            if self._room():
                since = time.monotonic()  # one loads its model, or waits until what others run there has ended
            elif time.monotonic() - since > _PATIENCE:
                raise M2KRError(f"--ray {self.address}: {self._no_room()}")

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """Return how many of our processes the machines can hold, if nothing else runs there."""
        found = 0
        for node in self._nodes():
            has = node["Resources"]
            room = has.get("CPU", 0) // self.cpus
            found += int(min(room, has.get("GPU", 0) // self.gpus) if self.gpus else room)
        return found

    def _no_room(self) -> str:
        there = "; ".join(
            f"{node['NodeManagerAddress']} has {node['Resources'].get('CPU', 0):g} CPUs and "
            f"{node['Resources'].get('GPU', 0):g} GPUs"
            for node in self._nodes()
        )
        return (
            f"no machine has room for a process of {self.cpus} CPUs and {self.gpus:g} GPUs: "
            f"{there or 'there is none'}. Pass smaller --ray-cpus and --ray-gpus, or add machines."
        )


def _short_folder() -> tuple[Path, subprocess.Popen[bytes]]:
    """Return a new folder for what a local Ray keeps while it runs, and the process that deletes it when this one ends.

    Ray's own processes take seconds to end after this one, longer than a command that is interrupted may go on, and
    write into the folder till then; and nothing else would delete it after ``kill -9``.
    """
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix=f"m2kr-ray-{os.getpid()}-", dir=base if len(base) < _SOCKET_PATHS else "/tmp")
    command = [sys.executable, "-I", "-S", "-c", _SWEEP, folder]
    nowhere = subprocess.DEVNULL
    sweeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True)
    return Path(folder), sweeper
