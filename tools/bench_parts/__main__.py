"""Measure the product beside what others would write, and beside itself: both sides in one run, as ratios.

    tools/bench [SECTION...] [--quick] [--out DIR] [--compare OLD.json [NEW.json]] ...

Sections: machine input relation step profile roofline launches rgrl pack scaling model checkpoint startup
evaluation suspects growth; all of them by default, which takes 40 minutes on two CPU cores.  Each finished table is on
the disk at once, as DIR/bench.json and DIR/bench.md, so that an interrupted run keeps what is done.
docs/performance.md explains every row.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.errors import ConfigError, UserError
from dist_rmd.files import write_atomically
from tools.bench_parts.host import cpu
from tools.bench_parts.images import SIDE, generate
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Table, compare, markdown

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = (
    "machine",
    "input",
    "relation",
    "step",
    "profile",
    "roofline",
    "launches",
    "rgrl",
    "pack",
    "scaling",
    "model",
    "checkpoint",
    "startup",
    "evaluation",
    "suspects",
    "growth",
)
LIBRARIES = ("torch", "torchvision", "ffcv", "numba", "numpy", "pillow", "lightly", "kornia", "cleanlab")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 1 where a section failed or --compare found something slower; 2 for a wrong option."""
    arguments = parse(argv)
    try:
        old, new = [read(path) for path in arguments.compare] + [None] * (2 - len(arguments.compare))
        new, failed = (new, False) if new else run(arguments)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.code
    if old is None:
        return int(failed)
    page, slower = compare(old, new)
    print(page)
    return int(slower or failed)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("tools/bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, one round, nothing compiled: to see that all of it works"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (runs/bench/<date>)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="prepared 32x32 images (random pixels by default)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rounds", type=int, help="counted rounds (5; with --quick 1)")
    parser.add_argument("--sizes", default="", help="relation: global batches B; growth: numbers of images; by commas")
    parser.add_argument("--classes", default="", help="growth: numbers of classes, by commas (10,100,1000)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="OPERATION",
        help="growth: this operation, such as suspects, and what it takes from others; several times for several",
    )  # fmt: skip
    parser.add_argument("--batches", default="", help="step, profile, rgrl: global batches, by commas (GPU: 512,64)")
    parser.add_argument("--alone", action="store_true", help="input, step: ours alone, nothing of others")
    parser.add_argument(
        "--beside", type=int, default=0, metavar="N",
        help="input: everything once more while N other processes keep cores busy",
    )  # fmt: skip
    parser.add_argument(
        "--with", dest="options", action="append", default=[], metavar="KEY=VALUE",
        help="step, rgrl, roofline: one row more, ours with this setting; startup: with this setting",
    )  # fmt: skip
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[], metavar="RUN",
        help="suspects: finished runs of SimSiam on verified labels (short ones on digits by default)",
    )  # fmt: skip
    parser.add_argument(
        "--folds", type=int, choices=range(6), default=0, metavar="N",
        help="suspects: 2 to 5 classifiers that have not seen the images, too; ours and cleanlab hear the same ones",
    )  # fmt: skip
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="folder on the disk that checkpoints are to go to")
    parser.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="JSON",
        help="say what got slower since this run; with a second file, compare the two and measure nothing",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    if wrong := {*arguments.sections} - {*SECTIONS}:
        parser.error(f"no section {min(wrong)}: choose from {', '.join(SECTIONS)}")
    if len(arguments.compare) > 2:
        parser.error("--compare takes one file or two")
    return arguments


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Measure, and write the results down as they come.  Returns them, and whether a section failed."""
    began = time.strftime("%Y-%m-%d-%H%M%S")
    out = arguments.out or ROOT / "runs" / "bench" / began
    failed = False
    if arguments.quick:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"  # here, before torch reads it, and in all processes to come
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        settings, images = prepare(arguments, Path(scratch))
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # rather than measuring what is not compiled
        out.mkdir(parents=True, exist_ok=True)
        result: dict[str, Any] = {
            "command": shlex.join(["tools/bench", *(sys.argv[1:])]),
            "began": began,
            "commit": commit(),
            "device": device(settings),
            "versions": versions(),
            "images": images,
            "rounds": settings.rounds,
            "load": "",
            "sections": {},
        }
        for name in arguments.sections or SECTIONS:
            content: dict[str, Any] = {"tables": [], "error": "", "seconds": 0.0}
            result["sections"][name] = content
            start = time.monotonic()
            print(f"bench: {name}", file=sys.stderr, flush=True)
            if "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(settings.cores)  # FFCV changes it when it is imported
            torch.compiler.reset()  # what sections before have compiled counts against a limit
            try:
                for table in importlib.import_module(f"tools.bench_parts.{name}").measure(settings):
                    content["tables"].append(asdict(table))
                    print(f"\n{markdown(table)}\n", flush=True)
                    write(out, result)
            except Exception as error:
                traceback.print_exc()
                content["error"] = f"failed: {type(error).__name__}: {error}".partition("\n")[0]
                failed = True
            except KeyboardInterrupt:
                content["error"] = "interrupted"
                write(out, result)
                print(f"bench: interrupted in {name}; what was done is in {out}", file=sys.stderr)
                sys.exit(130)
            content["seconds"] = round(time.monotonic() - start, 1)
            result["load"] = " ".join(f"{load:.1f}" for load in os.getloadavg())
            write(out, result)
    print(f"bench: {out / 'bench.md'}, {out / 'bench.json'}", file=sys.stderr)
    return result, failed


def prepare(arguments: argparse.Namespace, scratch: Path) -> tuple[Settings, str]:
    """What all sections are told, and what the images are.  Raises ConfigError or DataError."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but torch sees no GPU here")
    gpu = arguments.device != "cpu" and torch.cuda.is_available()
    if arguments.beside < 0:
        raise ConfigError(f"--beside {arguments.beside}: not a number of processes")
    if arguments.only:
        from tools.bench_parts.growth import OPERATIONS  # here, since it imports much

        if unknown := {*arguments.only} - {*OPERATIONS}:
            raise ConfigError(f"--only {min(unknown)}: growth has: {'; '.join(OPERATIONS)}")
    images = "random pixels" if arguments.data is None else str(arguments.data)
    if arguments.data is None:
        train, test = (1280, 256) if arguments.quick else (50_000, 10_000) if gpu else (8192, 2048)
        data = generate(scratch / "images", train, test).folder
    else:
        data = open_dataset(arguments.data).folder
        if open_dataset(data).side != SIDE:
            raise ConfigError(f"--data {data}: images of side {open_dataset(data).side}, but {SIDE} is measured")
    settings = Settings(
        device="cuda" if gpu else "cpu",
        cores=len(os.sched_getaffinity(0)),
        quick=arguments.quick,
        rounds=arguments.rounds or (1 if arguments.quick else 5),
        data=data,
        scratch=scratch,
        sizes=numbers("--sizes", arguments.sizes),
        classes=numbers("--classes", arguments.classes),
        operations=tuple(arguments.only),
        options=tuple(arguments.options),
        runs=tuple(arguments.runs),
        folds=arguments.folds,
        chosen=numbers("--batches", arguments.batches),
        alone=arguments.alone,
        beside=arguments.beside,
    )
    return settings, images


def numbers(option: str, text: str) -> tuple[int, ...]:
    """ "512,64" -> (512, 64).  Raises ConfigError."""
    parts = [part for part in text.split(",") if part]
    if not all(part.isdecimal() and int(part) > 1 for part in parts):
        raise ConfigError(f"{option} {text}: not whole numbers above 1, separated by commas")
    return tuple(map(int, parts))


def read(path: Path) -> dict[str, Any]:
    """The result of an earlier run.  Raises ConfigError."""
    try:
        result = json.loads(path.read_text())
        if "sections" not in result:
            raise ValueError("no sections")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--compare {path}: not a bench.json ({error})") from None
    return result


def write(out: Path, result: dict[str, Any]) -> None:
    """bench.json and bench.md, as far as they have come."""
    write_atomically(out / "bench.json", lambda file: file.write(json.dumps(result, indent=1).encode()))
    write_atomically(out / "bench.md", lambda file: file.write(page(result).encode()))


def page(result: dict[str, Any]) -> str:
    """The whole result as Markdown."""
    parts = [
        f"# tools/bench on {result['device']}",
        f"    {result['command']}",
        f"{result['began']}, commit {result['commit']}, {result['versions']}; images: {result['images']}. Median "
        f"(least..most) of {result['rounds']} rounds in which the ways take turns in random order; ratios are taken "
        f"round by round. Load average at the end {result['load']}.",
    ]
    for name, content in result["sections"].items():
        parts += [f"## {name}", *(markdown(Table.load(tree)) for tree in content["tables"])]
        parts += [content["error"]] if content["error"] else []
    return "\n\n".join(parts) + "\n"


def device(settings: Settings) -> str:
    if settings.gpu:
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {settings.cores} CPU cores"
    return cpu()


def versions() -> str:
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions()}
    found = [f"{name} {installed[name]}" for name in LIBRARIES if name in installed]
    return ", ".join([f"Python {platform.python_version()}", *found])


def commit() -> str:
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    status = [*git, "status", "--porcelain", "--", "dist_rmd", "tools"]
    changed = subprocess.run(status, capture_output=True, text=True)
    return (found.stdout.strip() or "unknown") + (" with changes" if changed.stdout else "")


if __name__ == "__main__":
    sys.exit(main())
