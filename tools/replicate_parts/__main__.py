"""As much of the project's evidence as fits into N minutes of one machine, most wanted first.

    tools/replicate --minutes N --out DIR [--data DIR] [--device cuda|cpu] [STEP...]

Steps: images machine checks speed profile simsiam relations modul; all of them by default.  Results are
DIR/replicate.md and DIR/replicate.json, whole at any moment; started again with the same DIR, the tool goes on with
what is missing.  docs/replicate.md explains all of it.
"""

import argparse
import contextlib
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from dist_rmd.cli import terminal
from dist_rmd.engine.signals import StopRequest
from dist_rmd.errors import CannotCreate, ConfigError, UserError
from dist_rmd.run.folder import RunFolder
from dist_rmd.run.lock import run_lock
from tools.bench_parts.host import cpu
from tools.replicate_parts.budget import allowed
from tools.replicate_parts.command import ROOT
from tools.replicate_parts.images import describe, kind_of, open_source
from tools.replicate_parts.record import Entry, Record, places, read
from tools.replicate_parts.step import CommandFailed, Cut, Step, StopAsked, Work
from tools.replicate_parts.steps import STEPS

STOPPED = 75
RESERVE = 2.0
"""seconds at the end of a call for writing"""
LIBRARIES = ("torch", "torchvision", "triton", "ffcv", "numba", "numpy", "lightly")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 1 where a step failed; 75 where a signal asked to stop; those of dist_rmd.errors."""
    began = time.monotonic()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = parse(words)
        with terminal.lasting(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            device = device_of(arguments.device)
            kind = kind_of(arguments.data)
            images = describe(open_source(kind, arguments.data))
            with run_lock(RunFolder(arguments.out)):
                return replicate(arguments, device, kind, images, words, began)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code


def replicate(
    arguments: argparse.Namespace, device: str, kind: str, images: str, words: Sequence[str], began: float
) -> int:
    """Take the steps.  Returns the exit code."""
    entries, calls = read(arguments.out, device)
    if calls and calls[-1]["images"] != images:
        raise ConfigError(
            f"{arguments.out} holds results of other images ({calls[-1]['images']}): choose another --out"
        )
    work_folder = arguments.work or own_folder(arguments.out)
    make(work_folder)
    known = {step.name: entries.get(step.name) or Entry(step.name, step.title) for step in STEPS}
    standing = places(ROOT, work=work_folder, data=arguments.data, out=arguments.out)
    call: dict[str, Any] = {
        "command": shlex.join(["tools/replicate", *words]), "began": now(), "minutes": arguments.minutes,
        "seconds": 0.0, "versions": versions(), "images": images,
    }  # fmt: skip
    record = Record(arguments.out, device, images, standing, entries=known, calls=[*calls, call])
    record.machine = cpu() if device == "cpu" else next((e.machine for e in known.values() if e.machine), "")
    say(f"{arguments.minutes:g} minutes on {device}; images: {images}; large files in {work_folder}")
    until = began + 60 * arguments.minutes - RESERVE
    todo = [step for step in STEPS if wanted(step, arguments.steps, known, work_folder)]
    with StopRequest() as request:
        for number, step in enumerate(todo):
            left = until - time.monotonic()
            seconds = allowed(step, device, left, 60 * arguments.minutes, todo[number + 1 :])
            entry = known[step.name]
            if request.signal:
                break
            if seconds < step.least[device]:
                entry.status = "skipped"
                entry.why = f"needs about {step.least[device]:.0f} s, {max(0, seconds):.0f} s were left"
                say(f"{step.name}: {entry.why}, skipped")
            else:
                work = Work(
                    device, arguments.data, kind, work_folder, record, entry, time.monotonic() + seconds,
                    lambda: bool(request.signal),
                )  # fmt: skip
                take(step, work, seconds)
            call["seconds"] = round(time.monotonic() - began, 1)
            record.write()
        stopped = bool(request.signal)
    say(f"{arguments.out / 'replicate.md'}, {arguments.out / 'replicate.json'}")
    return STOPPED if stopped else int(any(known[step.name].status == "failed" for step in todo))


def take(step: Step, work: Work, seconds: float) -> None:
    """Take one step; whatever becomes of it is in its entry."""
    entry, began = work.entry, time.monotonic()
    say(f"{step.name}: at most {seconds:.0f} s")
    entry.status, entry.why, entry.error, entry.began = "running", "", "", now()
    entry.commit, entry.machine = commit(), work.record.machine or work.device
    work.record.write()
    try:
        step.run(work)
        entry.status = "done"
    except Cut:
        entry.status, entry.why = "cut short", f"its {seconds:.0f} s were over"
    except StopAsked:
        entry.status, entry.why = "stopped", "by a signal"
    except CommandFailed as error:
        entry.status, entry.why, entry.error = "failed", str(error).splitlines()[-1][:200], str(error)
    except UserError:  # of writing: no step can be recorded any more
        raise
    except Exception as error:
        entry.status, entry.why = "failed", f"{type(error).__name__}: {error}"[:200]
        entry.error = traceback.format_exc()
    entry.load = f"{os.getloadavg()[0]:.1f}"
    entry.seconds = round(entry.seconds + time.monotonic() - began, 1)
    say(f"{step.name}: {entry.status} after {time.monotonic() - began:.0f} s{f' ({entry.why})' if entry.why else ''}")
    if entry.figure:
        say(f"    {entry.figure}")


def wanted(step: Step, chosen: Sequence[str], known: dict[str, Entry], folder: Path) -> bool:
    """The step is asked for, or needed by one that is, and has not been done."""
    names = [one.name for one in STEPS]
    needed = not chosen or step.name in chosen
    needed |= bool(step.leaves) and any(names.index(name) > names.index(step.name) for name in chosen)
    done = known[step.name].status == "done" and (not step.leaves or (folder / step.leaves).exists())
    return needed and not done


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see tools/replicate --help)")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Raises ConfigError."""
    parser = Parser("tools/replicate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="these, and what they need")
    parser.add_argument("--minutes", type=float, required=True, metavar="N", help="of this call")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="images: sheets, CIFAR-10 as published, train/ and test/ with a folder a class, or betons of `prepare` "
        "(scikit-learn's digits without)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", metavar="cuda|cpu", help="the GPU where there is one by default")
    parser.add_argument("--work", type=Path, metavar="DIR", help="large files, kept for the next call (in the system's "
                        "folder for temporary files by default)")  # fmt: skip
    given = parser.parse_args(words)
    if given.device not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"--device {given.device}: choose cuda or cpu")
    if not 0 < given.minutes < float("inf"):
        raise ConfigError(f"--minutes {given.minutes:g}: a number above 0 is needed")
    names = [step.name for step in STEPS]
    for name in given.steps:
        if name not in names:
            raise ConfigError(f"no step {name}: choose from {', '.join(names)}")
    return given


def device_of(asked: str) -> str:
    """cpu or cuda.  Raises ConfigError for cuda where torch sees no GPU."""
    if asked == "cpu":
        return asked
    probe = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    there = subprocess.run(probe, capture_output=True).returncode == 0
    if asked == "cuda" and not there:
        raise ConfigError("--device cuda, but torch sees no GPU here: use --device cpu, or see what nvidia-smi says")
    return "cuda" if there else "cpu"


def own_folder(out: Path) -> Path:
    """Where large files go: not beside DIR, which may be a folder whose content is carried home."""
    name = f"{out.name}-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]}"
    return Path(tempfile.gettempdir()) / f"replicate-{os.getuid()}" / name


def make(folder: Path) -> None:
    """Raises CannotCreate, also for a folder that somebody else has made in the place."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        foreign = folder.stat().st_uid != os.getuid()
    except OSError as error:
        raise CannotCreate(f"{folder}: cannot be created ({error.strerror}); choose another --work") from None
    if foreign:
        raise CannotCreate(f"{folder}: belongs to somebody else; choose another --work")


def commit() -> str:
    """git's short name, and what stands for it where there is no git: a digest of the sources."""
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if git.returncode == 0:
        status = ["git", "-C", str(ROOT), "status", "--porcelain", "--", "dist_rmd", "tools", "configs"]
        changed = subprocess.run(status, capture_output=True, text=True).stdout
        return git.stdout.strip() + (" with changes" if changed else "")
    return f"unknown (sources {sources()})"


def sources() -> str:
    """The first digits of a SHA-256 over the Python files of dist_rmd and tools."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in ("dist_rmd", "tools") for path in (ROOT / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def say(line: str) -> None:
    print(f"replicate: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
