import subprocess
import sys

from support.torchrun import ROOT, child_environment, state, wait_for

from tools.replicate_parts.command import run

PARENT_OF_ONE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_the_output_and_the_code_are_kept(tmp_path):
    for _ in range(2):
        ended = run([sys.executable, "-c", "print('said'); raise SystemExit(7)"], tmp_path / "logs" / "log", limit=60)
        assert (ended.code, ended.why) == (7, "")
    assert (tmp_path / "logs" / "log").read_text() == "said\nsaid\n"


def test_a_program_that_takes_too_long_is_ended_and_so_is_what_it_started(tmp_path):
    ended = run([sys.executable, "-c", PARENT_OF_ONE], tmp_path / "log", limit=3)
    assert ended.why == "limit"
    assert ended.seconds >= 3
    child = int((tmp_path / "log").read_text())
    assert wait_for(lambda: not state(child), 60)


def test_it_may_save_when_its_time_is_over(tmp_path):
    script = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit('saved'))\nprint('ready')\ntime.sleep(600)"
    )
    ended = run([sys.executable, "-uc", script], tmp_path / "log", limit=3)
    assert (ended.code, ended.why) == (1, "limit")
    assert (tmp_path / "log").read_text() == "ready\nsaved\n"


def test_it_is_watched_and_ends_when_it_has_done_enough_or_when_all_stop(tmp_path):
    looks = []
    enough = run(["sleep", "600"], tmp_path / "log", 60, look=lambda: bool(looks.append(0)) or len(looks) == 2)
    assert (enough.why, len(looks)) == ("enough", 3)  # once more at the end: what came last is seen, too
    assert run(["sleep", "600"], tmp_path / "log", 60, stopped=lambda: True).why == "stopped"


def test_it_does_not_outlive_a_killed_tool(tmp_path):
    script = f"""
from pathlib import Path
from tools.replicate_parts.command import run
run(["bash", "-c", "echo $$; sleep 600"], Path({str(tmp_path / "log")!r}), 600)
"""
    tool = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=child_environment())
    program = int(wait_for(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text(), 30))
    tool.kill()
    tool.wait()
    assert wait_for(lambda: not state(program), 60)
