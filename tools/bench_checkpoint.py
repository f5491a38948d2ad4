#!/usr/bin/env python
"""What a checkpoint costs the training: written at once, or copied and written in the background as the product does.

    python tools/bench_checkpoint.py [--folder DIR] [--rounds N] [--device DEVICE] [--markdown FILE]

A network trains on random images while its weights and SGD momentum are saved.  In every round three ways take turns,
in rotating order: no save, a synchronous one, one in the background; steps follow each.  Lost to a save are the time
within the call and what the steps take longer until the files are finished.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dist_rmd.engine.checkpoint import Checkpoints, save_tensors  # noqa: E402
from dist_rmd.files import sha256, write_atomically  # noqa: E402
from dist_rmd.models.encoder import encoder  # noqa: E402

NETWORKS = (("resnet18", 64, 2), ("resnet10", 16, 16))  # name, width, images per step
WAYS = ("none", "synchronous", "background")
STEPS = 4  # after each


class Training:
    """A network, its optimizer, and a step that waits for the device."""

    def __init__(self, name: str, width: int, batch: int, device: torch.device):
        self.net = encoder(name, width).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3, momentum=0.9)
        self.images = torch.rand(batch, 3, 32, 32, device=device)
        self.labels = torch.randint(10, (batch,), device=device)

    def step(self) -> float:
        """Seconds that one step took."""
        began = time.perf_counter()
        loss = F.cross_entropy(self.net(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()  # waits for the device
        return time.perf_counter() - began

    def state(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}


def save_synchronously(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """The same files, written and synced by the training thread, without a copy of the tensors."""
    path = folder / f"step-{step:08d}.pt"
    save_tensors(path, state)
    sidecar = {"step": step, "bytes": path.stat().st_size, "sha256": sha256(path)}
    write_atomically(path.with_suffix(".json"), lambda file: file.write(json.dumps(sidecar).encode()))


def measure(training: Training, folder: Path, rounds: int) -> dict[str, list[float]]:
    """One figure per round.

    step: seconds of a step without a save.  synchronous, background: seconds lost; call: those of them within save().
    during, after: median time of the steps that began before and after the background write was done, relative to step.
    """
    checkpoints = Checkpoints(folder / "background", keep=1)
    for _ in range(3):
        training.step()
    figures: dict[str, list[float]] = {
        name: [] for name in ("step", "synchronous", "background", "call", "during", "after")
    }
    for number in range(1, rounds + 1):
        calls, times, during = {}, {}, []
        for turn in range(len(WAYS)):
            way = WAYS[(number + turn) % len(WAYS)]
            began = time.perf_counter()
            if way == "synchronous":
                save_synchronously(folder / "synchronous", number, training.state())
            elif way == "background":
                checkpoints.save(number, training.state())
            calls[way] = time.perf_counter() - began
            if way == "background":
                sidecar = checkpoints.folder / f"step-{number:08d}.json"  # written last
                during.append(training.step())
                while not sidecar.exists() and len(during) < 1000:
                    during.append(training.step())
                checkpoints.wait()  # raises what went wrong
            times[way] = [training.step() for _ in range(STEPS)]
        quiet = statistics.median(times["none"])
        figures["step"].append(quiet)
        figures["synchronous"].append(calls["synchronous"])
        figures["background"].append(calls["background"] + sum(during) - len(during) * quiet)
        figures["call"].append(calls["background"])
        figures["during"].append(statistics.median(during) / quiet)
        figures["after"].append(statistics.median(times["background"]) / quiet)
        for path in (folder / "synchronous").iterdir():
            path.unlink()
    return figures


def cell(figures: list[float], scale: float, digits: int) -> str:
    """median (least..most)"""
    median, least, most = (scale * f(figures) for f in (statistics.median, min, max))
    return f"{median:.{digits}f} ({least:.{digits}f}..{most:.{digits}f})"


def table(folder: Path, rounds: int, device: torch.device) -> str:
    lines = [
        "| network | checkpoint, MB | step, ms | lost to a synchronous save, ms | lost to a background save, ms "
        "| of it within save(), ms | steps during the write | steps after it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, width, batch in NETWORKS:
        place = folder / f"{name}-{width}"
        figures = measure(Training(name, width, batch, device), place, rounds)
        size = next((place / "background").glob("*.pt")).stat().st_size / 1e6
        milliseconds = [cell(figures[key], 1e3, 0) for key in ("step", "synchronous", "background", "call")]
        ratios = [cell(figures[key], 1, 2) for key in ("during", "after")]
        row = [f"{name}, width {width}, batch {batch}", f"{size:.1f}", *milliseconds, *ratios]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="on the disk to be measured; the default is that of temporary files"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result = table(Path(folder), arguments.rounds, arguments.device)
    where = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, device {arguments.device}"
    text = (
        f"    {shlex.join(['python', *sys.argv])}\n\n"
        f"Median (least..most) of {arguments.rounds} rounds; {where}, torch {torch.__version__}, "
        f"Python {platform.python_version()}.\n\n{result}\n"
    )
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)


if __name__ == "__main__":
    main()
