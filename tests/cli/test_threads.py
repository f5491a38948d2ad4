import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from support.torchrun import ROOT, child_environment

LOAD = "import ctypes, sys; from dist_rmd.cli import terminal; terminal.begin(); ctypes.CDLL(sys.argv[1])"


@pytest.mark.parametrize(("chosen", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")])
def test_a_commands_threads_sleep_while_they_wait_unless_the_user_says_otherwise(chosen, expected):
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    libraries = sorted(Path(torch.origin).parent.glob("lib/libgomp*"))
    if not libraries:
        pytest.skip("torch has no OpenMP library of GCC's here")
    environment = child_environment(OMP_DISPLAY_ENV="true") | chosen
    command = [sys.executable, "-c", LOAD, str(libraries[0])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr
