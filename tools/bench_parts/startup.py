"""From the command to the first optimizer step of `train`: imports, and the caches of compilers, cold and warm."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dist_rmd.engine.writers import read_metrics
from dist_rmd.run.folder import RunFolder
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table

LIMIT = 600.0  # seconds
IMPORTS = "python -c 'import dist_rmd.pipeline.command'"
WAYS = {
    "FFCV, views compiled": ("data.reader=ffcv", "data.compile_views=true"),
    "from memory, views not compiled": ("data.reader=memory", "data.compile_views=false"),
}


def measure(settings: Settings) -> Iterator[Table]:
    rounds = 1 if settings.quick else max(2, settings.rounds // 2)
    ways = dict([*WAYS.items()][1:] if settings.quick else WAYS)
    times: dict[str, list[float]] = {IMPORTS: [], **{f"{way}, {c}": [] for way in ways for c in ("cold", "warm")}}
    for _ in range(rounds):
        times[IMPORTS].append(imports())
        for way, options in ways.items():
            with tempfile.TemporaryDirectory(dir=settings.scratch) as caches:
                for state in ("cold", "warm"):
                    times[f"{way}, {state}"].append(first_step(settings, Path(caches), state, options))
    network = "{}, width {}".format(*settings.network)
    yield Table(
        "Start-up",
        f"`train`, SimSiam, {network}, batch {settings.batch}, from the start of the process until the first optimizer "
        "step is in metrics.jsonl. cold: empty caches of torch.compile, Triton and numba; warm: those the start before "
        "has filled.",
        [Row(name, seconds) for name, seconds in times.items()],
    )


def imports() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import dist_rmd.pipeline.command"], check=True)
    return time.perf_counter() - began


def first_step(settings: Settings, caches: Path, state: str, options: tuple[str, ...]) -> float:
    """Seconds until the first step of a run that is ended then."""
    name, width = settings.network
    arguments = [
        "stages=[simsiam]", f"device={settings.device}", f"data.path={settings.data}", f"out={caches}", f"name={state}",
        f"model.name={name}", f"model.width={width}", f"simsiam.batch_size={settings.batch}", "log.every=1",
        *options, *settings.options,
    ]  # fmt: skip
    folders = {name: str(caches / name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "NUMBA_CACHE_DIR")}
    log, metrics = caches / f"{state}.log", RunFolder(caches / state).metrics
    began = time.perf_counter()
    with open(log, "w") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "dist_rmd.train", *arguments],
            env=os.environ | folders,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not (metrics.exists() and read_metrics(metrics)):
            if run.poll() is not None or time.perf_counter() - began > LIMIT:
                raise RuntimeError(f"no first step within {LIMIT:g} s: {log.read_text()[-500:]}")
            time.sleep(0.01)
        return time.perf_counter() - began
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
