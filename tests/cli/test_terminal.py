import fcntl
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = "for number in range(1000): print('line', number)"
WORK = f"""
import sys, warnings
from pathlib import Path
from dist_rmd.cli import terminal
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console
from dist_rmd.run.folder import RunFolder
terminal.PATIENCE = 0.2
def main():
    folder = Path(sys.argv[1])
    with terminal.lasting():
        {LINES}
        warnings.warn("all the same")
        console = Console(0, 0, RunFolder(folder))
        console.say("caf\\udce9")
        console.start("rgrl", 0, 10)
        console.step(Clock(step=5))
        console.stop()
        (folder / "done").touch()
    return 75
sys.exit(terminal.run(main))
"""
TEXT = f"""
import sys
from dist_rmd.cli import terminal
def main():
    {LINES}
    return 65
sys.exit(terminal.run(main))
"""


def started(code, *words, **options):
    """`python -c CODE WORDS`, with what it says of itself in its stderr."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, **{"stderr": subprocess.PIPE, **options})


def gone_pipe():
    """The end of a pipe to write to, whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def gone_terminal():
    """A terminal whose window has been closed."""
    window, terminal = pty.openpty()
    os.close(window)
    return terminal


def full_disk():
    return os.open("/dev/full", os.O_WRONLY)


def nobodys_pipe():
    """A pipe that is full already, and whose reader reads nothing."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)  # it stays open
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))
    return writer


def frozen_terminal():
    """A terminal that shows nothing, as after ctrl-S, or over a connection that is stuck."""
    return pty.openpty()[1]


@pytest.mark.parametrize("columns", ["80", "1", "0", "wide"])
@pytest.mark.parametrize("stream", [gone_pipe, gone_terminal, full_disk, nobodys_pipe, frozen_terminal])
def test_work_goes_on_whatever_becomes_of_its_streams(tmp_path, stream, columns):
    descriptor, environment = stream(), os.environ | {"COLUMNS": columns}
    process = started(WORK, tmp_path, stdout=descriptor, stderr=descriptor, env=environment)
    assert process.wait(60) == 75
    assert (tmp_path / "done").exists()


def test_work_goes_on_without_any_stream(tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    without = ["bash", "-c", f"exec {sys.executable} work.py . <&- >&- 2>&-"]
    done = subprocess.run(without, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == 75
    assert (tmp_path / "done").exists()


def test_a_reader_that_is_slow_or_a_pipe_that_does_not_wait_loses_nothing():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)  # as other programs leave a terminal that they share
    process = started(TEXT, stdout=writer)
    os.close(writer)
    time.sleep(0.5)
    with open(reader) as file:
        assert file.read().splitlines() == [f"line {number}" for number in range(1000)]
    assert process.wait(60) == 65


def test_text_ends_quietly_with_its_reader():
    process = started(TEXT, stdout=gone_pipe())
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == -signal.SIGPIPE


def test_text_that_a_full_disk_cuts_short_is_no_success():
    process = started(TEXT, stdout=full_disk())
    words = process.communicate(timeout=60)[1].decode()
    assert words == "error: standard output: cannot be written (No space left on device)\n"
    assert process.returncode == 74


def test_a_stream_that_only_tells_of_errors_may_be_full():
    process = started(TEXT.replace("'line', number", "number, file=sys.stderr"), stderr=full_disk())
    assert process.wait(60) == 65


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8:strict", "caf\\udce9 猫 ±"),
        ("ascii:strict", "caf\\udce9 \\u732b \\xb1"),
        ("latin-1", "caf\\udce9 \\u732b ±"),
    ],
)
def test_what_an_encoding_has_no_letters_for_is_escaped(encoding, shown):
    code = TEXT.replace(LINES, "print('caf\\udce9 猫 ±')")
    process = started(code, stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": encoding})
    out, err = process.communicate(timeout=60)
    assert out.decode(encoding.partition(":")[0]) == f"{shown}\n"
    assert err == b""


COMMANDS = ["-m dist_rmd.prepare", "-m dist_rmd", "launch/slurm.py"]
SLOW = ["-m dist_rmd.train", "-m dist_rmd.evaluate", "-m dist_rmd.report", "-m dist_rmd train", "launch/sweep.py"]


@pytest.mark.parametrize("command", [*COMMANDS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_command_ends_quietly_with_its_reader(command):
    words = [sys.executable, *command.split(), "--help"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=gone_pipe(), stderr=subprocess.PIPE)
    assert process.communicate(timeout=120)[1] == b""
    assert process.returncode == -signal.SIGPIPE


@pytest.mark.parametrize(
    "command",
    ["-m dist_rmd.train", "-m dist_rmd.prepare", "-m dist_rmd.report", "-m dist_rmd train", "launch/sweep.py"],
)
def test_ctrl_c_while_a_command_is_imported_is_one_line(command):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *command.split()], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:  # -X importtime: a line for each import
        if line.split()[-1] in ("numpy", "argparse"):  # of the command's own imports
            process.send_signal(signal.SIGINT)
            break
    rest = [line for line in process.stderr if not line.startswith("import time:")]
    assert rest == ["interrupted\n"]
    assert process.wait(60) == -signal.SIGINT  # which shells call 130
