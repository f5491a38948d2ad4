"""Signals, crashes, hangs, bad numbers and second starts: no disturbance harms a run, and each is named."""

import contextlib
import functools
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from support import disks, forked, small
from support.torchrun import ROOT, awaits, child_environment, is_held, launched, state, torchrun, wait_for
from support.whole_runs import assert_same, fault, records, stopped, tree

from dist_rmd.config.sections import parse
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distributed.launcher import SIGNALS_OPTION
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.metric_logger import MetricLogger
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.resolved import check
from dist_rmd.reports.summary import summary
from dist_rmd.run.artefacts import load

pytestmark = pytest.mark.timeout(400)  # on a busy machine; each run that torchrun starts has its own deadline
RUN = ("-m", "dist_rmd.train")
COMMAND = [*small.RECIPE, "stages=[classifier]", "data.reader=memory", "name=a"]  # two epochs of four steps
EVERY_STEP = "checkpoint.minutes=1e-9"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture
def command(data, tmp_path):
    return [*COMMAND, f"data.path={data}", f"out={tmp_path}"]


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The run that nothing happened to."""
    out = tmp_path_factory.mktemp("straight")
    assert main([*COMMAND, f"data.path={data}", f"out={out}"]) == 0
    return out / "a"


@pytest.fixture(scope="module")
def straight2(data, tmp_path_factory):
    """The same on two ranks, which rounds differently."""
    out = tmp_path_factory.mktemp("straight2")
    done = torchrun(2, *RUN, *COMMAND, f"data.path={data}", f"out={out}")
    assert done.returncode == 0, done.stdout
    return out / "a"


def outcome(out: Path) -> dict:
    return json.loads((out / "a" / "exit.json").read_text())


def refusal(capsys) -> str:
    """The one line that says why a run ended; warnings about settings may stand above it."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def newest(out: Path, stage: str = "classifier") -> dict:
    found = Checkpoints(out / "a" / stage / "checkpoints", 2).load_newest()
    assert found
    return found


def leftovers(out: Path) -> list[Path]:
    return list(out.rglob("*.tmp"))


@contextlib.contextmanager
def held(command: list[str], ranks: int, *options: str, step: int = 5):
    """Two processes that torchrun started, of which the last is held by SIGSTOP within step `step` + 1."""
    env = {"DIST_RMD_FAULT": f"kind=SIGSTOP,rank={ranks - 1},step={step}"}
    with launched(ranks, *RUN, *command, options=[SIGNALS_OPTION, *options], env=env) as run:
        workers = run.workers(ranks)
        wait_for(lambda: is_held(workers[-1]), 100)
        yield run


# Terminals


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_outlives_whoever_reads_what_it_says(request, command, tmp_path, ranks):
    launcher = f"torch.distributed.run --standalone --nproc_per_node={ranks} -m " if ranks > 1 else ""
    line = shlex.join([*command, "log.console_every=1", "task.eval_every=1"])
    shell = f"{sys.executable} -m {launcher}dist_rmd.train {line} 2>&1 | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=ROOT, env=child_environment(OMP_NUM_THREADS="1"), capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path)["status"] == "done"
    assert_same(tmp_path / "a", request.getfixturevalue("straight" if ranks == 1 else "straight2"), "classifier")


def test_a_library_that_ends_the_process_is_a_bug_that_exit_json_tells_of(command, tmp_path):
    with fault("kind=exit,rank=0,step=5"), pytest.raises(RuntimeError, match="SystemExit"):
        main(command)
    found = outcome(tmp_path)
    assert (found["code"], found["step"]) == (1, 5)
    assert found["reason"] == "RuntimeError('SystemExit(0) was to end the process')"


# Requests to stop


def test_every_signal_stops_one_process_after_a_checkpoint(command, straight, tmp_path, capsys):
    for step, name in enumerate(("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"), start=1):
        assert stopped(command, "classifier", step, name) == 75
        line = refusal(capsys)
        assert line == f"error: classifier: stopped by {name} after step {step}, which is saved"
        found = outcome(tmp_path)
        assert (found["status"], found["code"], found["stage"], found["step"]) == ("stopped", 75, "classifier", step)
        assert newest(tmp_path)["clock"]["step"] == step
        assert leftovers(tmp_path) == []
    assert main(command) == 0
    assert_same(tmp_path / "a", straight, "classifier")


@pytest.mark.parametrize("number", [signal.SIGUSR2, *(pytest.param(s, marks=pytest.mark.slow) for s in (15, 2, 10))])
def test_a_signal_to_torchrun_sent_twice_stops_all_ranks(command, tmp_path, number):
    with held(command, 2) as run:
        for _ in range(2):
            run.process.send_signal(number)
            wait_for(lambda: awaits(run.ranks[1], number), 10)  # torchrun has passed it on
            time.sleep(0.05)
        os.kill(run.ranks[1], signal.SIGCONT)
        run.finish()
        wait_for(lambda: not any(map(state, run.ranks)), 20)
    found = outcome(tmp_path)
    assert (found["status"], found["code"], found["step"]) == ("stopped", 75, 6), run.output
    assert newest(tmp_path)["clock"] == {"step": 6, "epoch": 1, "batch": 2}
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_a_stop_whose_checkpoint_cannot_be_written_is_no_stop(command, tmp_path):
    """Only the leading rank knows, and the others must not tell otherwise before it does."""
    (tmp_path / "a" / "classifier").mkdir(parents=True)
    (tmp_path / "a" / "classifier" / "checkpoints").write_text("a file in the way")
    done = torchrun(2, *RUN, *command, env={"DIST_RMD_FAULT": "kind=SIGUSR2,rank=1,step=1"})
    assert done.returncode == 1
    found = outcome(tmp_path)
    assert (found["status"], found["code"], found["rank"]) == ("failed", 73, 0), done.stdout


@pytest.mark.slow
def test_the_death_of_torchrun_while_ranks_start_leaves_no_orphans(command):
    endless = [*command, "task.epochs=100000"]
    with launched(2, *RUN, *endless) as run:
        workers = run.workers(2)  # as soon as they are there: they are importing
        os.kill(run.process.pid, signal.SIGKILL)
        wait_for(lambda: not any(map(state, workers)), 30)  # imports, half a second, and what is left of 10 s


@pytest.mark.slow
def test_one_rank_asked_to_stop_then_one_killed_and_all_restarted(command, straight2, tmp_path):
    """Two starts by hand and one by torchrun: together they are the run that nothing happened to."""
    stop = torchrun(2, *RUN, *command, env={"DIST_RMD_FAULT": "kind=SIGUSR1,rank=1,step=1"})
    assert "classifier: stopped by SIGUSR1 after step 2, which is saved" in stop.stdout
    assert outcome(tmp_path)["code"] == 75
    kill = {"DIST_RMD_FAULT": "kind=SIGKILL,rank=1,step=5"}
    done = torchrun(2, *RUN, *command, EVERY_STEP, options=["--max-restarts=1"], env=kill)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("classifier: going on from epoch") == 2, done.stdout
    assert outcome(tmp_path)["code"] == 0
    assert_same(tmp_path / "a", straight2, "classifier")


# Crashes and hangs


@pytest.mark.slow
def test_a_bug_on_one_rank_is_the_root_cause_that_torchrun_names(command, tmp_path):
    """The other rank says whom it lost."""
    done = torchrun(2, *RUN, *command, env={"DIST_RMD_FAULT": "kind=raise,rank=1,step=5"})
    assert done.returncode == 1
    cause = done.stdout.partition("Root Cause (first observed failure):")[2]
    assert "rank      : 1 (local_rank: 1)" in cause, done.stdout
    assert "RuntimeError: DIST_RMD_FAULT asked for this failure" in cause
    log = (tmp_path / "a" / "logs" / "rank1.log").read_text()
    assert "ERROR rank 1: a bug\nTraceback" in log
    assert "faults.py" in log
    found = outcome(tmp_path)
    assert (found["code"], found["rank"], found["step"]) == (1, 1, 5)
    assert "DIST_RMD_FAULT asked" in found["reason"]
    assert "rank 1 of 2 does not answer" in (tmp_path / "a" / "logs" / "rank0.log").read_text()


def test_the_death_of_torchrun_leaves_neither_orphans_nor_a_broken_checkpoint(command, tmp_path):
    endless = [*command, "task.epochs=100000"]
    with launched(2, *RUN, *endless) as run:
        workers = run.workers(2)
        wait_for(lambda: (tmp_path / "a" / "classifier" / "checkpoints").exists(), 100)
        os.kill(run.process.pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: not any(map(state, workers)), 60)
        print(f"all workers were gone after {time.monotonic() - killed:.1f} s")
    found = outcome(tmp_path)
    assert (found["status"], found["code"]) == ("stopped", 75)
    assert newest(tmp_path)["clock"]["step"] == found["step"]
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_a_rank_that_hangs_is_named(command, tmp_path):
    timeout = 4
    with held([*command, f"dist.timeout={timeout}"], 2, "--shutdown-timeout=2") as run:
        began = time.monotonic()
        wait_for((tmp_path / "a" / "exit.json").exists, timeout + 60)
        seconds = time.monotonic() - began
        print(f"named after {seconds:.1f} s")
        run.finish()
    found = outcome(tmp_path)
    assert found["reason"].startswith("rank 1 of 2 does not answer: it died, or hangs; start again")
    assert (found["code"], found["rank"], found["step"]) == (1, 0, 5)
    assert timeout - 2 < seconds
    assert "error: rank 0: rank 1 of 2 does not answer" in run.output


@pytest.mark.slow
def test_everything_killed_at_once(command, straight2, tmp_path):
    with held(command, 2) as run:
        run.kill()
        run.process.wait()
    assert not (tmp_path / "a" / "exit.json").exists()
    again = torchrun(2, *RUN, *command)
    assert again.returncode == 0, again.stdout
    assert "classifier: going on from epoch 1, step 4" in again.stdout
    assert_same(tmp_path / "a", straight2, "classifier")


@pytest.mark.slow
def test_images_that_break_on_one_machine_end_the_run(data, tmp_path):
    (tmp_path / "digits").symlink_to(data)
    overrides = [*COMMAND, "data.reader=ffcv", f"out={tmp_path}"]
    done = torchrun(2, "-m", "support.ranks.ffcv_error", str(tmp_path / "digits"), *overrides)
    assert done.returncode == 1
    beton = tmp_path / "copy1" / "train.beton"
    assert f"error: rank 1: {beton}: its size has changed since it was opened" in done.stdout
    found = outcome(tmp_path)
    assert (found["code"], found["rank"], found["step"]) == (65, 1, 4)
    assert str(beton) in found["reason"]


# Losses that are not finite


def rank_samples(command: list[str], rank: int, world: int, epoch: int, batch: int) -> list[int]:
    plan = check(parse(None, command))
    config = plan.config
    cpu = torch.device("cpu")
    source = Loaders(plan.dataset, config.data, config.augment, rank, world, cpu, 1)
    loader = source.training(plan.labels, ("weak",), 32, config.seed)
    return next(loader.epoch(epoch, start=batch)).indices.tolist()


def test_a_loss_that_is_not_finite_on_one_rank_ends_all_ranks(command, tmp_path):
    done = forked.ranks(2, "dist_rmd.train", *command, env={"DIST_RMD_FAULT": "kind=nan,rank=1,step=4"})
    samples = rank_samples(command, rank=1, world=2, epoch=1, batch=0)
    found = outcome(tmp_path)
    assert (found["code"], found["step"], found["samples"]) == (70, 4, samples)
    shown = ", ".join(map(str, samples[:8]))
    line = f"classifier: loss not finite in optimizer step 5 on rank 1; samples {shown} and 8 more"
    assert found["reason"].startswith(line)
    assert done.stdout.count(f"error: {line}") == 1, done.stdout
    for rank in range(2):  # both end for that loss, neither because the other no longer answers
        log = (tmp_path / "a" / "logs" / f"rank{rank}.log").read_text()
        assert len([error for error in log.splitlines() if line in error]) == 1
        assert "does not answer" not in log
    assert newest(tmp_path)["clock"]["step"] == 4


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were(command, straight, tmp_path):
    """What is saved is what an undisturbed run saved, and the run goes on to the same end once the cause is gone."""
    with fault("kind=nan,rank=0,step=5"):
        assert main(command) == 70
    assert newest(tmp_path)["clock"]["step"] == 4
    hashes = [
        json.loads((folder / "classifier" / "checkpoints" / "step-00000004.json").read_text())["sha256"]
        for folder in (tmp_path / "a", straight)
    ]
    assert hashes[0] == hashes[1]
    assert main(command) == 0
    assert_same(tmp_path / "a", straight, "classifier")


def test_gradients_that_overflow_in_half_precision_are_only_counted(command, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=2.0**40))
    assert main([*command, "precision=fp16"]) == 0
    steps = [record for record in records(tmp_path / "a", "classifier") if "train/loss" in record]
    skipped = [record["train/amp_skipped"] for record in steps]
    assert skipped[:2] == [1, 1]
    scales = [record["train/amp_scale"] for record in steps]
    assert scales == [2.0 ** (40 - sum(skipped[: n + 1])) for n in range(8)]


# Where nothing can be written


def test_a_folder_that_cannot_be_written_is_found_before_training(command, tmp_path, capsys):
    (tmp_path / "a").write_text("in the way")
    assert main(command) == 73
    line = refusal(capsys)
    assert line == f"error: {tmp_path / 'a'}: cannot be written (Not a directory)"
    assert (tmp_path / "a").read_text() == "in the way"


@pytest.mark.parametrize("place", ["artefacts", "a/tb", "a/classifier", "a/logs", "a/figures"])
def test_any_place_that_cannot_be_written_is_found_before_training_and_by_the_dry_run(command, tmp_path, capsys, place):
    (tmp_path / "a").mkdir()
    with disks.tmpfs(tmp_path / place, "1m") as disk:
        disks.make_read_only(disk)
        before = tree(tmp_path)
        for options in ([], ["--dry-run"]):
            assert main([*options, *command]) == 73
            line = refusal(capsys)
            assert line.startswith(f"error: {disk}")
            assert "Read-only file system" in line
        assert tree(tmp_path) == before


def test_a_read_only_disk_is_found_before_training(command, straight, tmp_path, capsys):
    with disks.tmpfs(tmp_path / "disk", "8m") as disk:
        arguments = [*command, f"out={disk}"]
        assert stopped(arguments, "classifier", 2) == 75
        disks.make_read_only(disk)
        before = tree(disk)
        capsys.readouterr()
        assert main(arguments) == 73
        assert "Read-only file system" in capsys.readouterr().err
        assert tree(disk) == before


# Second starts


def test_a_second_run_in_the_folder_is_refused_and_the_first_goes_on(command, straight, tmp_path, capsys):
    with fault("kind=SIGSTOP,rank=0,step=5"):
        first = subprocess.Popen([sys.executable, *RUN, *command], cwd=ROOT)
    try:
        wait_for(lambda: is_held(first.pid), 60)
        assert main(command) == 73
        line = refusal(capsys)
        assert f"{tmp_path / 'a'}: another run is writing here" in line
        assert f'"pid": {first.pid}' in line
        assert f'"host": "{platform.node()}"' in line
        assert not (tmp_path / "a" / "exit.json").exists()
        for _ in range(2):  # asked twice to stop, the second time perhaps while it saves
            with contextlib.suppress(ProcessLookupError):  # it has saved and gone before the second time
                first.send_signal(signal.SIGTERM)
                os.kill(first.pid, signal.SIGCONT)
            time.sleep(0.05)
        assert first.wait(60) == 75
        assert outcome(tmp_path)["step"] == 6
    finally:
        first.kill()
        first.wait()
    assert main(command) == 0
    assert_same(tmp_path / "a", straight, "classifier")


def test_a_finished_run_started_again_is_left_as_it_is(straight, command, capsys):
    arguments = [*command, f"out={straight.parent}"]
    before = tree(straight.parent)
    with fault("kind=raise,rank=0,step=0"):  # in the first step of whatever it would train
        assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"{straight}: finished before, nothing to do\n")
    assert tree(straight.parent) == before


@pytest.mark.slow
def test_a_finished_run_started_again_on_ranks_is_left_as_it_is(straight2, command):
    before = tree(straight2.parent)
    done = torchrun(2, *RUN, *command, f"out={straight2.parent}")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("finished before, nothing to do") == 1
    assert tree(straight2.parent) == before


def test_another_configuration_is_shown_and_refused_unless_forced(command, tmp_path, capsys):
    assert stopped(command, "classifier", 2) == 75
    before = tree(tmp_path)
    capsys.readouterr()
    assert main([*command, "task.lr=0.01"]) == 2
    line = refusal(capsys)
    assert "task.lr: 0.05 -> 0.01" in line
    assert "--force" in line
    assert tree(tmp_path) == before
    assert stopped([*command, "checkpoint.keep=3"], "classifier", 4) == 75
    assert "changed since the last start: checkpoint.keep: 2 -> 3" in capsys.readouterr().out


def test_a_forced_run_goes_on_and_does_not_pass_for_an_honest_one(command, tmp_path, capsys):
    assert stopped(command, "classifier", 2) == 75
    other = [*command, "task.lr=0.01"]
    assert main(["--force", *other[:-1], "task.lr=0.01", "log.every=2"]) == 0
    output = capsys.readouterr().out
    assert "changed since the last start: task.lr: 0.05 -> 0.01" in output
    assert "classifier: going on from epoch 0, step 2" in output
    forced = load(tmp_path / "a" / "classifier" / "artefact.pt")
    honest = check(parse(None, [*other, "name=b"])).keys["classifier"]
    assert forced["key"] != honest
    assert [path.name for path in (tmp_path / "artefacts").iterdir()] == [f"classifier-{forced['key']}.pt"]
    before = tree(tmp_path)
    assert main([*other, "log.every=2"]) == 0, "without --force again: the folder is that of this configuration now"
    assert tree(tmp_path) == before
    assert main([*other, "name=b"]) == 0
    assert "finished before" not in capsys.readouterr().out.partition("b: classifier")[2]
    assert load(tmp_path / "b" / "classifier" / "artefact.pt")["key"] == honest
    table = summary([tmp_path / "a", tmp_path / "b"])
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| CE, forced", "| CE"]


def test_a_forced_run_may_be_stopped_too(command, tmp_path):
    assert stopped(command, "classifier", 2) == 75
    other = [*command, "task.lr=0.01"]
    assert stopped(["--force", *other], "classifier", 4) == 75
    assert main(other) == 0
    assert len(newest(tmp_path)["lineage"]) == 2


# Long runs


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["ffcv", "memory"])
def test_memory_threads_and_files_stay_the_same_over_epochs(command, monkeypatch, reader):
    seen = []
    evaluated = MetricLogger.evaluated

    def look(*arguments):
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        seen.append((resident, threading.active_count(), len(os.listdir("/proc/self/fd"))))
        return evaluated(*arguments)

    monkeypatch.setattr(MetricLogger, "evaluated", look)
    assert main([*command, f"data.reader={reader}", "task.epochs=30"]) == 0
    resident, threads, files = zip(*seen[5:], strict=True)
    assert len(resident) == 25
    assert len(set(threads)) == 1
    assert max(files) - min(files) <= 1, files  # a checkpoint may be just being written
    assert resident[-1] - resident[0] < 20, resident  # MiB
