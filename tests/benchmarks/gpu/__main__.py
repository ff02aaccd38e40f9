"""Everything that is to be measured on a GPU, in one run of less than eight minutes.

    make gpu     or     python -m tests.benchmarks.gpu --out runs/gpu.json     (from the repository, with PYTHONPATH=.)
    python -m tests.benchmarks.gpu --tiny --device cpu --out /tmp/tiny.json    # whether the code runs at all

For one GPU and no network. Each section is a process of its own, which gives its memory back, ends when its time is
over, and takes no other with it when it fails. The file is written after each part; the same command goes on with what
it lacks. `make bench-report` brings it into RESULTS.md.

Exit code 0: all that can be measured here was. 1: something is wrong or failed. 3: something was cut short. 2: the
command was not right.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2kr.common.cli import option, parse
from m2kr.common.progress import say
from m2kr.errors import M2KRError, run_command
from tests.benchmarks.gpu.results import Results, gravest

if TYPE_CHECKING:
    from tests.benchmarks.gpu.bench import Bench

ROOT = Path(__file__).resolve().parents[3]
_MODELS = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL", "msgspec")
_GRACE = 10.0
# Seconds in which a process that has to end may do so by itself.


@dataclass(frozen=True)
class Section:
    """What is measured together.

    Attributes:
        seconds: that it gets, at most, with the start of its process.
        needs: modules that it imports; without one the section is skipped.
    """

    seconds: float
    needs: tuple[str, ...] = _MODELS


_TRAINER = ("sentence_transformers", "accelerate", "datasets", "polars", "pyarrow", "isal", "filelock", "tqdm")
SECTIONS = {
    "correctness": Section(80),
    "encoding": Section(110),
    "searching": Section(75),
    "training": Section(80, (*_MODELS, *_TRAINER)),
    "evaluation": Section(100, (*_MODELS, *_TRAINER)),
    "pictures": Section(25, (*_MODELS, "isal")),
}
"""Correctness first: figures of what computes wrong mean nothing."""


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """Options of the command."""

    out: Path = option("file of the figures; what it holds is not measured again", Path("runs/gpu.json"))
    sections: tuple[str, ...] = option(
        f"which of {', '.join(SECTIONS)}; default all", (), several="list", choices=tuple(SECTIONS)
    )
    device: str = option("as torch names it", "cuda")
    seconds: float = option("for all sections together", 465.0, above=0)
    tiny: bool = option("small sizes, which measure nothing, to try the code", False)
    again: bool = option("measure anew what the file holds", False)
    here: bool = option("in this process, all sections one after the other", False)
    quiet: bool = option("say nothing", False)
    golden: Path | None = option(
        "the official implementation's values; default: shared/golden beside the repository or in it", None
    )
    data: Path | None = option("a made-up benchmark that is built; default: made beside --out", None)
    images: Path | None = option("its raw releases", None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = parse(
        GpuOptions,
        argv,
        prog="python -m tests.benchmarks.gpu",
        description="Check and measure PreFLMR, search, training and evaluation on a GPU.",
    )
    if (options.data is None) != (options.images is None):
        raise M2KRError("--data and --images belong together: name both, or neither.")
    settings = {"device": options.device.partition(":")[0], "tiny": options.tiny}
    results = Results(options.out, settings, again=options.again)
    results.save()
    names = options.sections or tuple(SECTIONS)
    end = time.monotonic() + options.seconds
    for name in names:
        own = results.section(name)
        if results.is_whole(name):
            say(f"{name}: {own['status']} before", quiet=options.quiet)
            continue
        seconds = min(SECTIONS[name].seconds, end - time.monotonic())
        if lacking := [module for module in SECTIONS[name].needs if find_spec(module) is None]:
            results.section(name).update(status="skipped", why=f"not installed: {', '.join(lacking)}")
            results.save()
        elif seconds <= 0:
            results.section(name).update(status="cut", why=f"the {options.seconds:.0f} s of all sections were over")
            results.save()
        elif options.here:
            _measure(name, options, results, time.monotonic() + seconds)
        else:
            results = _apart(name, options, results, seconds, settings)
        own = results.section(name)
        say(f"{name}: {own['status']}, {own['seconds']:.0f} s{_told(own)}", quiet=options.quiet)
    status = gravest(results.section(name)["status"] for name in names)
    say(f"{options.out}: {status}", quiet=options.quiet)
    return {"done": 0, "skipped": 0, "cut": 3}.get(status, 1)


def _told(section: dict[str, Any]) -> str:
    """Return what a person has to know of a section that is not done."""
    lines = [section["why"]] if section.get("why") and not section["parts"] else []
    lines += [
        f"{name}: {part['status']}, {part.get('why') or _off(part)}"
        for name, part in section["parts"].items()
        if part["status"] != "done"
    ]
    return "".join(f"\n  {line}" for line in lines)


def _off(part: dict[str, Any]) -> str:
    return f"off by {part['off']}, where {part['allowed']} is allowed" if "off" in part else "it does not hold"


def _apart(name: str, options: GpuOptions, results: Results, seconds: float, settings: dict[str, Any]) -> Results:
    """Measure a section in a process of its own, and end that when its time is over."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--here", "--quiet", "--sections", name]
    command += ["--out", str(options.out.resolve()), "--device", options.device, "--seconds", f"{seconds:.0f}"]
    command += ["--tiny"] if options.tiny else []
    for flag, path in (("--golden", options.golden), ("--data", options.data), ("--images", options.images)):
        command += [flag, str(path.resolve())] if path is not None else []
    code = run_for(command, seconds + _GRACE)
    found = Results(options.out, settings)
    if code == 2:
        raise M2KRError(f"{name} could not begin; see above.")
    if code is None:
        found.finish(name, f"its process was ended after {seconds + _GRACE:.0f} s")
    elif code not in (0, 1, 3):
        found.finish(name, f"its process ended with {code}", crashed=True)
    return found


def run_for(command: list[str], seconds: float) -> int | None:
    """Run a command in the repository for so many seconds; return its exit code, None where it had to be ended."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        except BaseException:
            process.kill()
            raise


def _measure(name: str, options: GpuOptions, results: Results, deadline: float) -> None:
    """Measure a section's parts in this process."""
    bench = _bench(options, deadline)
    results.value["environment"] = results.value["environment"] or _environment(options.device)
    own = results.section(name)
    parts = import_module(f"tests.benchmarks.gpu.{name}").parts(bench)
    for part in results.begin(name, parts):
        if bench.left() <= 0:
            break
        with results.part(name, part) as found:
            found.update(parts[part]())
        bench.free()
    own["rates"] = {**own.get("rates", {}), **{str(dtype)[6:]: rate for dtype, rate in bench.rates.items()}}
    results.finish(name)


def _bench(options: GpuOptions, deadline: float) -> Bench:
    import torch

    from baselines.common.batching import device_of
    from tests.benchmarks.gpu.bench import Bench

    device = device_of(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events are recorded there
    beside = (ROOT.parent / "shared" / "golden", ROOT / "shared" / "golden")
    golden = options.golden or next((folder for folder in beside if folder.is_dir()), None)
    work = options.out.resolve().with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    return Bench(
        device=device,
        tiny=options.tiny,
        deadline=deadline,
        golden=golden,
        data=options.data or work / "m2kr",
        images=options.images or work / "raw",
        work=work,
    )


def _environment(device: str) -> dict[str, Any]:
    """Return where the figures are from."""
    import os

    import torch

    from m2kr.common.measure import environment

    found = environment(device)
    if device.startswith("cuda"):
        facts = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda,
            "capability": f"{facts.major}.{facts.minor}",
            "memory": facts.total_memory,
        }
    return {**found, "cores": os.cpu_count()}


if __name__ == "__main__":
    raise SystemExit(run_command(main))
