"""tools/setup on a made-up machine: every program it may call is a stub that notes its call; nothing is installed."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDINARY = ["bash", "cat", "chmod", "cksum", "dirname", "env", "flock", "mkdir", "rm", "sed", "tail", "touch", "true"]

# A Python $VERSION.  `-m venv` copies it, once interrupted before pip; `pip install` fails while `broken` exists.
PYTHON = """#!/usr/bin/env bash
echo "python $*" >>"$MACHINE/calls"
case "$*" in
    -V) echo "Python $VERSION.1" ;;
    *"%d.%d"*) echo "$VERSION" ;;
    *"version_info < "*) [[ ${VERSION#3.} -ge 10 ]] ;;
    *ensurepip*) [[ ! -e $MACHINE/no-venv ]] ;;
    *Python.h*) [[ ! -e $MACHINE/no-headers ]] ;;
    "-m venv .venv")
        mkdir -p .venv/bin
        [[ $0 == .venv/* ]] || cat "$0" >.venv/bin/python
        chmod +x .venv/bin/python
        if [[ -e $MACHINE/interrupt ]]; then rm "$MACHINE/interrupt"; exit 1; fi
        touch .venv/with-pip ;;
    "-m pip --version") [[ -e .venv/with-pip ]] ;;
    "-m pip install"*) echo "pip talks"; [[ ! -e $MACHINE/broken ]] || { echo "no such luck"; exit 3; } ;;
esac
"""
PKG_CONFIG = """#!/usr/bin/env bash
[[ ! -e $MACHINE/no-$2 ]]
"""
APT = """#!/usr/bin/env bash
echo "apt-get $* ${DEBIAN_FRONTEND-}" >>"$MACHINE/calls"
[[ $1 == update ]] || rm -f "$MACHINE"/no-*
"""
SUDO = """#!/usr/bin/env bash
[[ $1 == -n && ! -e $MACHINE/no-sudo-rights ]] || exit 1
shift
exec "$@"
"""


@dataclass
class Machine:
    folder: Path
    project: Path

    def add(self, name: str, text: str) -> None:
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def lacks(self, *things: str) -> None:
        for thing in things:
            (self.folder / f"no-{thing}").touch()

    def run(self, *arguments: str, **environment: str):
        """tools/setup from some other folder, as on a machine with nothing but these stubs."""
        (self.folder / "calls").write_text("")
        env = {"PATH": str(self.folder / "bin"), "MACHINE": str(self.folder), "VERSION": "3.11"} | environment
        command = [self.project / "tools/setup", *arguments]
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=30)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def called(self, start: str) -> int:
        return sum(call.startswith(start) for call in self.calls)


@pytest.fixture
def machine(tmp_path):
    """Debian with all system packages, seen by root; a checkout without .venv."""
    project = tmp_path / "the project"
    (project / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools/setup", project / "tools")
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, project)
    (tmp_path / "bin").mkdir()
    result = Machine(tmp_path, project)
    for name in ORDINARY:
        found = shutil.which(name)
        assert found, name
        os.symlink(found, tmp_path / "bin" / name)
    for name, text in {"python3": PYTHON, "pkg-config": PKG_CONFIG, "apt-get": APT}.items():
        result.add(name, text)
    result.add("g++", "#!/usr/bin/env bash\n")
    result.add("id", "#!/usr/bin/env bash\necho ${USER_ID-0}\n")
    return result


def test_first_run_installs_second_run_does_nothing(machine):
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert machine.called("python -m venv") == machine.called("python -m pip install") == 1
    assert machine.called("apt-get") == 0
    assert "-e .[ffcv,plots,slurm,export,test]" in next(call for call in machine.calls if "pip install" in call)
    assert "pip talks" not in done.stdout + done.stderr
    assert "pip talks" in (machine.project / ".venv/setup.log").read_text()
    again = machine.run()
    assert (again.returncode, again.stdout) == (0, "setup: nothing to do\n")
    assert machine.calls == ["python -V"]


@pytest.mark.parametrize("name", ["setup.cfg", "pyproject.toml"])
def test_changed_requirements_are_installed_into_the_same_venv(machine, name):
    machine.run()
    with (machine.project / name).open("a") as file:
        file.write("# changed\n")
    assert machine.run().returncode == 0
    assert (machine.called("python -m venv"), machine.called("python -m pip install")) == (0, 1)


def test_a_moved_checkout_is_installed_again(machine):
    machine.run()
    machine.project = machine.project.rename(machine.folder / "moved")
    assert machine.run().returncode == 0
    assert machine.called("python -m pip install") == 1


def test_a_failed_installation_shows_its_end_and_is_repaired_by_the_next_run(machine):
    (machine.folder / "broken").touch()
    failed = machine.run()
    assert failed.returncode == 1
    assert "no such luck" in failed.stderr
    assert str(machine.project / ".venv/setup.log") in failed.stderr
    half = machine.project / ".venv/lib/python3.11/site-packages/half-1.0.dist-info"
    whole = half.with_name("whole-1.0.dist-info")
    for info in (half, whole):
        info.mkdir(parents=True)
        (info / "METADATA").touch()
    (whole / "RECORD").touch()
    (machine.folder / "broken").unlink()
    assert machine.run().returncode == 0
    assert not half.exists()
    assert whole.exists()
    assert machine.run().stdout == "setup: nothing to do\n"


def test_going_back_after_a_failed_change_installs_again(machine):
    machine.run()
    old = (machine.project / "setup.cfg").read_text()
    (machine.project / "setup.cfg").write_text(old + "# changed\n")
    (machine.folder / "broken").touch()
    assert machine.run().returncode == 1
    (machine.folder / "broken").unlink()
    (machine.project / "setup.cfg").write_text(old)
    assert machine.run().returncode == 0
    assert machine.called("python -m pip install") == 1


def test_a_venv_without_pip_gets_it(machine):
    (machine.folder / "interrupt").touch()
    assert machine.run().returncode == 1
    assert machine.run().returncode == 0
    assert (machine.project / ".venv/with-pip").exists()


def test_a_venv_whose_python_is_gone_is_made_anew(machine):
    machine.run()
    python = machine.project / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert machine.run().returncode == 0
    assert machine.called("python -m venv") == 1


def test_root_installs_exactly_what_is_missing(machine):
    machine.lacks("opencv4", "libturbojpeg", "venv", "headers")
    (machine.folder / "bin/g++").unlink()
    done = machine.run()
    # The stub cannot bring g++, so the check afterwards names it.
    assert done.returncode == 1
    assert "still lacks g++" in done.stderr
    apt = [call for call in machine.calls if call.startswith("apt-get")]
    assert apt[0].startswith("apt-get update")
    packages = "g++ libopencv-dev libturbojpeg0-dev python3.11-venv python3.11-dev"
    assert apt[1] == f"apt-get install -y --no-install-recommends {packages} noninteractive"


def test_passwordless_sudo_is_used(machine):
    machine.lacks("opencv4")
    machine.add("sudo", SUDO)
    done = machine.run(USER_ID="1000")
    assert done.returncode == 0, done.stderr
    assert "apt-get install -y --no-install-recommends libopencv-dev noninteractive" in machine.calls


@pytest.mark.parametrize("sudo", [False, True])
def test_without_rights_the_exact_command_is_printed(machine, sudo):
    machine.lacks("opencv4", "libturbojpeg", "sudo-rights")
    if sudo:
        machine.add("sudo", SUDO)
    done = machine.run(USER_ID="1000")
    assert done.returncode == 1
    install = "apt-get install -y --no-install-recommends libopencv-dev libturbojpeg0-dev\n"
    assert f"    sudo apt-get update && sudo {install}" in done.stderr
    assert machine.called("apt-get") == machine.called("python -m pip install") == 0


def test_other_systems_are_told_what_is_needed(machine):
    machine.lacks("opencv4")
    (machine.folder / "bin/apt-get").unlink()
    done = machine.run()
    assert done.returncode == 1
    assert "OpenCV 4 and TurboJPEG" in done.stderr
    assert "libopencv-dev" in done.stderr


def test_python_is_looked_for(machine):
    machine.add("python3.12", PYTHON.replace("$VERSION", "3.12").replace("${VERSION", "${NEWER"))
    done = machine.run(VERSION="3.9", NEWER="3.12")
    assert done.returncode == 0, done.stderr
    assert "making .venv with Python 3.12" in done.stdout


def test_no_recent_python(machine):
    done = machine.run(VERSION="3.9")
    assert done.returncode == 1
    assert "no Python >= 3.10" in done.stderr
    assert not (machine.project / ".venv").exists()


def test_a_wrong_choice_of_python_is_refused(machine):
    done = machine.run(PYTHON="/nowhere/python")
    assert done.returncode == 1
    assert "PYTHON=/nowhere/python is not a Python >= 3.10" in done.stderr
    machine.run()
    machine.add("other", PYTHON.replace("$VERSION", "3.12"))
    done = machine.run(PYTHON="other")
    assert done.returncode == 1
    assert "remove .venv first" in done.stderr
    assert machine.run(PYTHON="python3").returncode == 0


def test_two_at_once_install_once(machine):
    (machine.folder / "calls").write_text("")
    env = {"PATH": str(machine.folder / "bin"), "MACHINE": str(machine.folder), "VERSION": "3.11"}
    started = [subprocess.Popen([machine.project / "tools/setup"], env=env) for _ in range(2)]
    assert [process.wait(30) for process in started] == [0, 0]
    assert machine.called("python -m pip install") == 1


def test_help(machine):
    assert machine.run("--help").stdout.startswith("usage: tools/setup")
    assert machine.calls == []
