import subprocess
import sys

from support.torchrun import child_environment
from torch.distributed import run

from dist_rmd.distributed.launcher import torchrun_command


def test_torchrun_reads_the_command_as_it_was_meant():
    words = ["a.yaml", "task.epochs=2", "--force"]
    given = run.parse_args(torchrun_command(words, "--standalone", "--nproc-per-node=3"))
    assert (given.standalone, given.nproc_per_node) == (True, "3")
    assert given.signals_to_handle == "SIGTERM,SIGINT,SIGUSR1,SIGUSR2,SIGHUP"
    assert (given.module, given.training_script) == (True, "dist_rmd.train")
    assert given.training_script_args == words


def test_the_launcher_is_noted_before_torch_is_imported():
    """Whoever dies while torch is imported, which takes seconds, is known by its number all the same."""
    script = """
import importlib.abc, os, runpy, sys

class Orphan(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            os.kill(os.getppid(), 9)
            while os.getppid() == parent:
                pass
            noted = sys.modules["dist_rmd.distributed.launcher"].LAUNCHER
            os.write(1, b"noted" if noted == parent else b"too late")
            os._exit(0)

parent = os.getppid()
sys.meta_path.insert(0, Orphan())
runpy.run_module("dist_rmd.train", run_name="__main__")
"""
    launcher = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    command = [sys.executable, "-c", launcher, script]
    done = subprocess.run(command, env=child_environment(), stdout=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (-9, "noted")
