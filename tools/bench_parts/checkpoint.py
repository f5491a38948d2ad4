"""What a checkpoint costs the training thread: written at once, or copied and written in the background as it is done.

A network trains on random images while its weights and SGD momentum are saved.  In every round three ways take turns,
in rotating order: no save, a synchronous one, one in the background; steps follow each.  Lost to a save are the time
within the call and what the steps take longer until the files are finished.
"""

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from dist_rmd.engine.checkpoint import Checkpoints, save_tensors
from dist_rmd.files import sha256, write_atomically
from dist_rmd.models.encoder import encoder
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table, spread

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


def saves(training: Training, folder: Path, rounds: int) -> dict[str, list[float]]:
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


def measure(settings: Settings) -> Iterator[Table]:
    for name, width, batch in NETWORKS[1:] if settings.quick else NETWORKS:
        batch = 512 if settings.gpu else batch
        place = settings.scratch / f"{name}-{width}"
        figures = saves(Training(name, width, batch, torch.device(settings.device)), place, settings.rounds)
        size = next((place / "background").glob("*.pt")).stat().st_size / 1e6
        ratios = {f"steps {when} the write": spread(figures[when]) for when in ("during", "after")}
        yield Table(
            f"Checkpoint of {name}, width {width}",
            f"{size:.1f} MB of weights and momentum, steps of batch {batch}. Lost: the time within the call and what "
            "the steps take longer until the files are finished; below zero where noise was more than that. steps "
            "during, after: how much longer each took than without a save.",
            [
                Row("a step without a save", figures["step"]),
                Row("lost to a save at once", figures["synchronous"]),
                Row("lost to a save in the background", figures["background"], facts=ratios),
                Row("of it within save()", figures["call"], "lost to a save at once"),
            ],
        )
