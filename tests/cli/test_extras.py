import subprocess
import sys

import pytest
from support.torchrun import ROOT

from dist_rmd.cli import extras
from dist_rmd.errors import ConfigError


@pytest.mark.parametrize(("library", "extra"), extras.EXTRAS.items())
def test_a_library_that_is_not_installed_is_one_line(library, extra):
    line = rf"^{library} is not installed: pip install 'dist_rmd\[{extra}\]'$"
    with pytest.raises(ConfigError, match=line), extras.explained():
        raise ModuleNotFoundError(f"No module named '{library}.core'", name=f"{library}.core")


def test_any_other_module_that_is_missing_is_a_bug():
    with pytest.raises(ModuleNotFoundError), extras.explained():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


# `python -c` with a library that cannot be found, and a command.
WITHOUT = """
import importlib.abc, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

library, command, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Absent())
runpy.run_module(command, run_name="__main__", alter_sys=True)
"""


def without(library, *command):
    words = [sys.executable, "-c", WITHOUT, library, *map(str, command)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_command_that_needs_the_library_ends_with_that_line(tmp_path):
    for command in (["submitit", "dist_rmd.slurm", "device=cpu"], ["matplotlib", "dist_rmd.report", "tsne", tmp_path]):
        done = without(*command)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {command[0]} is not installed: pip install 'dist_rmd[")
        assert done.stderr.count("\n") == 1


def test_commands_that_can_do_without_the_library_do():
    done = without("matplotlib", "dist_rmd.report", "--help")
    assert done.returncode == 0, done.stderr
    assert "summary    " in done.stdout
    assert "tsne       matplotlib is not installed" in done.stdout
    done = without("submitit", "dist_rmd.sweep", "rmdnet/table1", "--dry-run", "data.path=none")
    assert "none: no such dataset" in done.stderr
