"""Kill a 2-rank run at random moments until it has survived enough of it; its weights must be those of a quiet run.

    tools/soak [--kills 20] [--seed 0] [--folder DIR] [--markdown FILE]

The digits are trained twice with torchrun, two ranks, gloo, on the CPU: stages simsiam and rgrl.  The second run is
ended again and again, each time in one of the ways below, and started again, until it has been ended often enough;
then it may finish.  Compared are all weights, bit for bit, and all records of metrics.jsonl but the speeds.
"""

import argparse
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dist_rmd.data.prepared.beton import manifest_path
from dist_rmd.distributed.launcher import on_this_machine, torchrun_command
from dist_rmd.engine.checkpoint import NAME
from dist_rmd.engine.writers import read_metrics
from dist_rmd.run.artefacts import load
from dist_rmd.run.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("simsiam", "rgrl")
STEPS = 6  # at most so many optimizer steps after its first checkpoint, an attempt is ended
EPOCHS_PER_KILL = 2  # of each stage, 4 steps an epoch: the kills reach both, and the run does not end before them
RECIPE = (
    "data.compile_views=false", "data.per_class=15", "data.reader=memory", "noise.rate=0.4",
    "model.name=resnet10", "model.width=8",
    "simsiam.batch_size=32", "simsiam.proj_hidden=16", "simsiam.proj_out=16", "simsiam.pred_hidden=8",
    "task.batch_size=32", "task.lr=0.01",
    "log.every=1", "checkpoint.minutes=0.005", "checkpoint.every=5", "device=cpu", "name=run",
)  # fmt: skip
WAYS = {
    "kill -9 one rank": (signal.SIGKILL, "rank"),
    "kill -9 torchrun": (signal.SIGKILL, "agent"),
    "kill -9 all of it": (signal.SIGKILL, "group"),
    "SIGTERM to torchrun": (signal.SIGTERM, "agent"),
    "SIGUSR2 to torchrun": (signal.SIGUSR2, "agent"),
    "SIGUSR2 to one rank": (signal.SIGUSR2, "rank"),
    "SIGINT to all of it": (signal.SIGINT, "group"),
}
ORPHANING, LIMIT = ("kill -9 torchrun", "kill -9 all of it"), 10.0
"""ways after which no one is left to end the ranks, and the seconds in which they must be gone"""


@dataclass
class Tally:
    """What came of one way of ending the run."""

    seconds: list[float] = field(default_factory=list)
    """until all processes were gone"""
    lost: list[int] = field(default_factory=list)
    """optimizer steps that the next attempt had to repeat"""


class Attempt:
    """One start of the run."""

    def __init__(self, folder: Path, data: Path, kills: int):
        epochs = [f"{section}.epochs={EPOCHS_PER_KILL * kills}" for section in ("simsiam", "task")]
        evaluations = [f"{section}.eval_every=10" for section in ("simsiam", "task")]
        overrides = [*RECIPE, *epochs, *evaluations, "task.schedule=cosine", f"data.path={data}", f"out={folder}"]
        words = [*overrides, f"stages=[{','.join(STAGES)}]"]
        torchrun = torchrun_command(words, *on_this_machine(2))
        command = [sys.executable, "-m", "torch.distributed.run", *torchrun]
        self.folder, self.log = folder / "run", folder / "output.log"
        with open(self.log, "a") as log:
            self.agent = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def ranks(self) -> list[int]:
        """Process ids of the ranks."""
        listed = subprocess.run(["pgrep", "-P", str(self.agent.pid)], capture_output=True, text=True).stdout
        return [int(pid) for pid in listed.split()]

    def end(self, way: str, chance: random.Random) -> float:
        """End it; returns the seconds after which all its processes were gone."""
        number, whom = WAYS[way]
        ranks, began = self.ranks(), time.monotonic()
        if whom == "group":
            os.killpg(self.agent.pid, number)
        else:
            os.kill(chance.choice(ranks) if whom == "rank" and ranks else self.agent.pid, number)
        while self.agent.poll() is None or any(map(_lives, ranks)):
            if time.monotonic() - began > 6 * LIMIT:
                raise SystemExit(f"soak: {way}: processes still there after {6 * LIMIT:.0f} s; see {self.log}")
            time.sleep(0.02)
        return time.monotonic() - began


def soak(folder: Path, kills: int, seed: int) -> tuple[dict[str, Tally], float]:
    """Train quietly, then with `kills` kills, and compare.  Raises SystemExit where a promise is broken."""
    data = folder / "digits"
    if not manifest_path(data).exists():
        subprocess.run([sys.executable, "-m", "dist_rmd.prepare", "digits", str(data)], cwd=ROOT, check=True)
    quiet, harried = folder / "quiet", folder / "harried"
    for out in (quiet, harried):
        out.mkdir(exist_ok=True)
    began = time.monotonic()
    if Attempt(quiet, data, kills).agent.wait():
        raise SystemExit(f"soak: the undisturbed run failed; see {quiet / 'output.log'}")
    quiet_seconds = time.monotonic() - began
    chance, tallies = random.Random(seed), {way: Tally() for way in WAYS}
    for number, way in enumerate(_shuffled(list(WAYS), kills, chance), start=1):
        before = _newest(harried / "run")
        attempt = Attempt(harried, data, kills)
        if number % 10:  # every tenth is ended at any moment of its start
            while _newest(harried / "run") == before and attempt.agent.poll() is None:
                time.sleep(0.02)
            stage, step = _newest(harried / "run")
            end = (stage, step + chance.randint(0, STEPS))
            while (stage, 0) <= _reached(harried / "run") < end and attempt.agent.poll() is None:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.3))
        else:
            time.sleep(chance.uniform(0, 8))
        if attempt.agent.poll() is not None:
            raise SystemExit(f"soak: the run ended by itself before kill {number}; see {attempt.log}")
        seconds = attempt.end(way, chance)
        reached, saved = _reached(harried / "run"), _newest(harried / "run")
        lost = reached[1] - saved[1] if reached[0] == saved[0] else 0
        tallies[way].seconds.append(seconds)
        tallies[way].lost.append(max(0, lost))
        print(f"{number}/{kills}  {way}: gone after {seconds:.1f} s at {saved[0]} step {saved[1]}", flush=True)
    attempt = Attempt(harried, data, kills)
    if attempt.agent.wait():
        raise SystemExit(f"soak: the last attempt failed; see {attempt.log}")
    _compare(quiet / "run", harried / "run")
    for way, tally in tallies.items():
        if way in ORPHANING and max(tally.seconds, default=0) > LIMIT:
            raise SystemExit(f"soak: {way}: orphans were there for {max(tally.seconds):.1f} s, not {LIMIT:.0f}")
    return tallies, quiet_seconds


def _shuffled(ways: list[str], count: int, chance: random.Random) -> Iterator[str]:
    """`count` of the ways, each about equally often."""
    order = [ways[i % len(ways)] for i in range(count)]
    chance.shuffle(order)
    return iter(order)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _newest(run: Path) -> tuple[str, int]:
    """Stage and step of the newest finished checkpoint."""
    found = [(stage, path) for stage in STAGES for path in RunFolder(run).checkpoints(stage).glob("*.json")]
    steps = [(stage, int(name[1])) for stage, path in found if (name := NAME.fullmatch(path.name))]
    return max(steps, key=lambda at: (STAGES.index(at[0]), at[1]), default=("", 0))


def _reached(run: Path) -> tuple[str, int]:
    """Stage and step of the last point of the curves."""
    metrics = RunFolder(run).metrics
    records = read_metrics(metrics) if metrics.exists() else []
    return max(((r["stage"], r["step"]) for r in records), key=lambda at: (STAGES.index(at[0]), at[1]), default=("", 0))


def _compare(quiet: Path, harried: Path) -> None:
    for stage in STAGES:
        ours, theirs = (load(RunFolder(run).artefact(stage)) for run in (harried, quiet))
        for part in ("encoder", "head", "projector", "predictor"):
            for name, tensor in theirs.get(part, {}).items():
                if not torch.equal(ours[part][name], tensor):
                    raise SystemExit(f"soak: {stage}: {part}.{name} differs from the undisturbed run's")
    records = [
        [{k: v for k, v in r.items() if not k.startswith("perf/")} for r in read_metrics(RunFolder(run).metrics)]
        for run in (harried, quiet)
    ]
    if records[0] != records[1]:
        raise SystemExit("soak: metrics.jsonl differs from the undisturbed run's")


def _table(tallies: dict[str, Tally]) -> list[str]:
    lines = ["| way | times | seconds until all processes were gone: median, max | steps repeated: median, max |"]
    lines.append("|---|---|---|---|")
    for way, tally in tallies.items():
        if tally.seconds:
            gone, lost = (
                f"{statistics.median(values):.{digits}f}, {max(values):.{digits}f}"
                for values, digits in ((tally.seconds, 1), (tally.lost, 0))
            )
            lines.append(f"| {way} | {len(tally.seconds)} | {gone} | {lost} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often the run is ended (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and ways (default 0)")
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        tallies, quiet = soak(folder.absolute(), arguments.kills, arguments.seed)
        minutes = (time.monotonic() - began) / 60
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    lines = [
        f"`tools/soak --kills {arguments.kills} --seed {arguments.seed}`, commit {commit.strip()}, "
        f"{os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}: "
        f"{minutes:.0f} min, of which the undisturbed run took {quiet:.0f} s.",
        "",
        *_table(tallies),
        "",
        "All weights of both stages equal the undisturbed run's bit for bit, and so do all records of metrics.jsonl.",
    ]
    print("\n".join(lines))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
