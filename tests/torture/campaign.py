"""The trials: kills, pairs of writers, full and read-only disks, damaged inputs; each beside the reference bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.damage import damaged_bytes, damaged_json
from tests.torture.commands import COMMANDS, Command, contents, make_inputs
from tests.torture.trial import Fault, Outcome, Running


class Campaign:
    """Trials in a folder of work, and what came of them.

    Attributes:
        seconds: command -> what it takes undisturbed.
        tried: (command, kind of trial) -> trials.
        faults: (command, kind of trial, number of the trial, what was wrong).
    """

    def __init__(self, work: Path, seed: int, names: list[str]) -> None:
        self.seed = seed
        self.tried: Counter[tuple[str, str]] = Counter()
        self.faults: list[tuple[str, str, int, str]] = []
        self._work, self._inputs = work, work / "in"
        self.commands = [command for command in COMMANDS if command.name in names]
        work.mkdir(parents=True)
        # In a process of its own: this one forks, and must have no threads.
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                make_inputs(self._inputs, self.commands)
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the inputs could not be made")
        self._references: dict[tuple[str, str], dict[str, bytes]] = {}
        self._changes: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        for command in self.commands:
            for more in dict.fromkeys(("", command.other, *command.mixes)):
                self._make_reference(command, more)

    def _make_reference(self, command: Command, more: str) -> None:
        out = self._work / "reference"
        # A part of the other work is done where the first was done.
        for each in ("", more) if more in command.mixes else (more,):
            outcome = self._run(command, out, more=each, fault=Fault("count"))
            if outcome.code != 0:
                raise RuntimeError(f"{command.name} {each} fails undisturbed: {outcome.said}")
        self._references[command.name, more] = contents(out) if out.exists() else {}
        if not more:
            self.seconds[command.name] = outcome.seconds
            self._changes[command.name] = int((self._work / "said.count").read_text(encoding="utf-8"))
        shutil.rmtree(out, ignore_errors=True)

    def _start(
        self,
        command: Command,
        out: Path,
        *,
        more: str = "",
        fault: Fault | None = None,
        inputs: Path | None = None,
        notes: str = "said",
    ) -> Running:
        argv = command.argv(inputs or self._inputs, out, more=more)
        return Running(command.main(), argv, out, self._work / notes, fault)

    def _run(self, command: Command, out: Path, **options: object) -> Outcome:
        return self._start(command, out, **options).end()  # type: ignore[arg-type]

    def trial(self, number: int) -> None:
        """Do a trial of this seed; what happens in it depends on its number (and, where it is a kill, on the time)."""
        random = Random(f"{self.seed} {number}")
        kinds: list[tuple[str, Callable[[Command, Path, Random], list[str]], int]] = [
            ("kill", self._kill, 4),
            ("signal", self._signal, 1),
            ("pair", self._pair, 1),
            ("disk", self._disk, 2),
            ("damage", self._damage, 12),
        ]
        command = self.commands[number % len(self.commands)]
        possible = [
            kind
            for kind in kinds
            if (kind[0] != "damage" or command.reads) and (kind[0] == "damage" or self._changes[command.name])
        ]
        name, run, _ = random.choices(possible, [kind[2] for kind in possible])[0]
        folder = self._work / "trial"
        try:
            found = run(command, folder / "out", random)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.tried[command.name, name] += 1
        self.faults += [(command.name, name, number, fault) for fault in found]

    def _kill(self, command: Command, out: Path, random: Random) -> list[str]:
        found = []
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            if random.random() < 0.5:
                fault = Fault("kill", random.randint(1, self._changes[command.name]))
                outcome = self._run(command, out, fault=fault)
            else:
                outcome = self._start(command, out).end(after=random.uniform(0, 1.05 * self.seconds[command.name]))
            found += outcome.defects
        return found + self._goes_on(command, out)

    def _signal(self, command: Command, out: Path, random: Random) -> list[str]:
        number, code = random.choice([(signal.SIGINT, 130), (signal.SIGTERM, 143)])
        after = random.uniform(0.05, 0.95 * self.seconds[command.name])
        outcome = self._start(command, out).end(after=after, number=number)
        found = [f"{defect}: {outcome.said[-900:]!r}" for defect in outcome.defects]
        # A signal may come before the command has its handlers, or after its end.
        if outcome.code == code:
            if outcome.seconds - after > 2.5:
                found.append(f"{outcome.seconds - after:.1f} seconds from the signal to the end")
            lines = [
                line for line in outcome.said.splitlines() if not line.startswith("[transformers]")
            ]  # its warnings
            if len(lines) != 1:
                found.append(f"no single line after a signal: {outcome.said[:300]!r}")
        elif outcome.code not in (0, -number):
            found.append(f"exit code {outcome.code} after signal {number}")
        return found + self._goes_on(command, out)

    def _pair(self, command: Command, out: Path, random: Random) -> list[str]:
        works = ("", command.other if random.random() < 0.7 else "")
        running = [self._start(command, out, more=more, notes=f"said{number}") for number, more in enumerate(works)]
        outcomes = [one.end() for one in running]
        found = [defect for outcome in outcomes for defect in outcome.defects]
        if all(outcome.code != 0 for outcome in outcomes):
            found.append(f"neither ended well: {outcomes[0].said[:200]!r} {outcomes[1].said[:200]!r}")
        made = contents(out) if out.exists() else {}
        wanted = [self._references[command.name, more] for more in (*works, *(command.mixes if works[1] else ()))]
        if made not in wanted:
            found.append(f"neither one's result: {_difference(made, wanted[0])}")
        return found

    def _disk(self, command: Command, out: Path, random: Random) -> list[str]:
        fault = random.choice(
            [
                Fault("full", random.randint(1, self._changes[command.name])),
                Fault("size", int(10 ** random.uniform(3.3, 6))),
                Fault("read-only"),
            ]
        )
        outcome = self._run(command, out, fault=fault)
        found = [f"{fault.kind}: {defect}" for defect in outcome.defects]
        if outcome.code not in (0, 2):
            found.append(f"{fault.kind}: exit code {outcome.code}: {outcome.said[:200]!r}")
        return found + self._goes_on(command, out)

    def _goes_on(self, command: Command, out: Path) -> list[str]:
        """Run it again, undisturbed, and compare what is there with the reference."""
        outcome = self._run(command, out)
        found = [f"again: {defect}" for defect in outcome.defects]
        if outcome.code != 0:
            return [*found, f"again: exit code {outcome.code}: {outcome.said[:300]!r}"]
        made = contents(out) if out.exists() else {}
        wanted = self._references[command.name, ""]
        return found if made == wanted else [*found, f"again: {_difference(made, wanted)}"]

    def _damage(self, command: Command, out: Path, random: Random) -> list[str]:
        inputs = out.parent / "in"
        shutil.copytree(self._inputs, inputs, copy_function=os.link)
        files = sorted(path for pattern in command.reads for path in inputs.glob(pattern) if path.is_file())
        # A kind of file, then one of it: else the pictures, which are many, would have most of the damage.
        kind = random.choice(sorted({(path.parent, path.suffix) for path in files}))
        path = random.choice([path for path in files if (path.parent, path.suffix) == kind])
        whole = path.read_bytes()
        path.unlink()  # a link to the file of all trials
        as_json = path.suffix == ".json" and random.random() < 0.8
        path.write_bytes(damaged_json(whole.decode(), random) if as_json else damaged_bytes(whole, random))
        outcome = self._run(command, out, inputs=inputs)
        found = outcome.defects
        is_table = path.suffix == ".parquet" and path.read_bytes() != whole
        if outcome.code == 0 and is_table and command.exact and contents(out) != self._references[command.name, ""]:
            found.append("other figures of a damaged table")
        where = path.relative_to(inputs)
        return [f"{where}: {defect}: {outcome.said[-300:]!r}" for defect in found]


def _difference(made: dict[str, bytes], wanted: dict[str, bytes]) -> str:
    differs = sorted(name for name in made.keys() & wanted.keys() if made[name] != wanted[name])
    if differs and differs[0].endswith(".json"):
        values = [json.loads(files[differs[0]]) for files in (made, wanted)]
        keys = [key for key in {**values[0], **values[1]} if values[0].get(key) != values[1].get(key)]
        differs[0] += f" ({', '.join(keys)})"
    parts = {"more": sorted(made.keys() - wanted.keys()), "less": sorted(wanted.keys() - made.keys()), "other": differs}
    return "; ".join(f"{what}: {', '.join(names[:4])}" for what, names in parts.items() if names)
